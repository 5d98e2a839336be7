import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createWatchedTree } from './watched-tree.ts';

describe('a watched tree', () => {
  it('carries all below a renamed directory along, and nothing beside it', () => {
    const tree = createWatchedTree();
    for (const [wd, path] of ['', 'a', 'a/b', 'a/b/c', 'ab'].entries()) tree.set(wd, path);
    tree.move('a', 'z');
    expect([0, 1, 2, 3, 4].map(tree.pathOf)).toEqual(['', 'z', 'z/b', 'z/b/c', 'ab']);
    expect(tree.watchOf('a/b')).toBeUndefined();
  });

  it('forgets what a renamed directory has replaced', () => {
    const tree = createWatchedTree();
    tree.set(1, 'from');
    tree.set(2, 'to');
    tree.move('from', 'to');
    expect(tree.pathOf(2)).toBeUndefined();
    expect(tree.watchOf('to')).toBe(1);
  });

  it('tells the watches of what it cuts', () => {
    const tree = createWatchedTree();
    for (const [wd, path] of ['', 'a', 'a/b', 'b'].entries()) tree.set(wd, path);
    expect(tree.cut('a')).toEqual([1, 2]);
    expect(tree.cut('')).toEqual([0, 3]);
    expect(tree.size).toBe(0);
  });

  const name = fc.constantFrom('a', 'b', 'a/a', 'a/b', 'b/a', 'a/a/a');
  const step = fc.oneof(
    fc.tuple(fc.constant('set'), fc.nat(8), name),
    fc.tuple(fc.constant('move'), name, name),
    fc.tuple(fc.constant('cut'), name),
    fc.tuple(fc.constant('forget'), fc.nat(8)),
  );

  it('never has two watches for a path or two paths for a watch, whatever happens', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const tree = createWatchedTree();
        for (const [kind, first, second] of steps) {
          if (kind === 'set') tree.set(Number(first), String(second));
          // The kernel refuses to move a directory below itself.
          if (kind === 'move' && !String(second).startsWith(`${first}/`))
            tree.move(String(first), String(second));
          if (kind === 'cut') tree.cut(String(first));
          if (kind === 'forget') tree.forget(Number(first));
        }
        const paths = Array.from({ length: 9 }, (_, wd) => tree.pathOf(wd)).filter(
          (path) => path !== undefined,
        );
        expect(new Set(paths).size).toBe(paths.length);
        expect(tree.size).toBe(paths.length);
        for (const path of paths) expect(tree.pathOf(tree.watchOf(path) ?? -1)).toBe(path);
      }),
    );
  });
});
