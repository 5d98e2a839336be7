import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Branch, createWatchedTree } from './watched-tree.ts';

const treeOf = (...paths: string[]) => {
  const tree = createWatchedTree();
  for (const [wd, path] of paths.entries()) tree.set(wd, path);
  return tree;
};

describe('a watched tree', () => {
  it('carries all below a renamed directory along, and nothing beside it', () => {
    const tree = treeOf('', 'a', 'a/b', 'a/b/c', 'ab');
    expect(tree.attach(tree.detach('a'), 'z')).toEqual([]);
    expect([0, 1, 2, 3, 4].map(tree.pathOf)).toEqual(['', 'z', 'z/b', 'z/b/c', 'ab']);
    expect(tree.watchOf('a/b')).toBeUndefined();
  });

  it('tells what a renamed directory has taken the place of', () => {
    const tree = treeOf('', 'from', 'to', 'to/below');
    expect(tree.attach(tree.detach('from'), 'to')).toEqual([2, 3]);
    expect(tree.watchOf('to')).toBe(1);
    expect(tree.watchOf('to/below')).toBeUndefined();
    expect([1, 2, 3].map(tree.isDetached)).toEqual([false, true, true]);
  });

  it('keeps what has left apart from what has its name now', () => {
    const tree = treeOf('', 'a', 'a/b');
    const left = tree.detach('a');
    expect(tree.set(3, 'a')).toBeUndefined();
    expect(tree.set(4, 'a/b')).toBeUndefined();
    expect(left.filter(({ wd }) => tree.isDetached(wd)).map(({ wd }) => wd)).toEqual([1, 2]);
    expect(tree.attach(left, 'z')).toEqual([]);
    expect([1, 2, 3, 4].map(tree.pathOf)).toEqual(['z', 'z/b', 'a', 'a/b']);
  });

  it('takes what has come back in another way off a branch', () => {
    const tree = treeOf('', 'a', 'a/b');
    const left = tree.detach('a');
    tree.set(1, 'back');
    tree.forget(2);
    expect(tree.attach(left, 'z')).toEqual([]);
    expect([1, 2].map(tree.pathOf)).toEqual(['back', undefined]);
  });

  it('tells the watches of all that it clears', () => {
    const tree = treeOf('', 'a', 'a/b', 'b');
    tree.detach('a');
    expect(tree.clear()).toEqual([0, 1, 2, 3]);
    expect(tree.size).toBe(0);
  });

  const name = fc.constantFrom('a', 'b', 'a/a', 'a/b', 'b/a', 'a/a/a');
  const step = fc.oneof(
    fc.record({ kind: fc.constant('set' as const), wd: fc.nat(8), path: name }),
    fc.record({ kind: fc.constant('detach' as const), path: name }),
    fc.record({ kind: fc.constant('attach' as const), branch: fc.nat(3), path: name }),
    fc.record({ kind: fc.constant('forget' as const), wd: fc.nat(8) }),
  );

  it('never has two watches for a path, and loses none, whatever happens', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const tree = createWatchedTree();
        const known = new Set<number>();
        const branches: Branch[] = [];
        for (const next of steps) {
          if (next.kind === 'set') {
            const former = tree.set(next.wd, next.path);
            known.add(next.wd);
            if (former !== undefined) expect(tree.isDetached(former)).toBe(true);
          }
          if (next.kind === 'detach') {
            const branch = tree.detach(next.path);
            expect(branch.every(({ wd }) => tree.isDetached(wd))).toBe(true);
            branches.push(branch);
          }
          if (next.kind === 'attach') {
            const former = tree.attach(branches[next.branch] ?? [], next.path);
            expect(former.every(tree.isDetached)).toBe(true);
          }
          if (next.kind === 'forget') {
            tree.forget(next.wd);
            known.delete(next.wd);
          }
        }
        const attached = [...known].filter((wd) => !tree.isDetached(wd));
        const paths = attached.map((wd) => tree.pathOf(wd) ?? 'none');
        expect(paths.map(tree.watchOf)).toEqual(attached);
        expect(tree.size).toBe(known.size);
        expect(new Set(tree.clear())).toEqual(known);
      }),
    );
  });
});
