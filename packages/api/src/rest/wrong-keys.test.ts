import { describe, expect, it } from 'vitest';
import { createWrongKeys } from './wrong-keys.ts';

describe('keys that are none', () => {
  let nowMs = 0;
  const wrong = (keys: ReturnType<typeof createWrongKeys>, address: string, count: number) => {
    for (let n = 0; n < count; n += 1) keys.try(`wrong-${n}`, address)(false);
  };

  it('may be tried so often a minute, by each address and network', () => {
    const keys = createWrongKeys(3, () => nowMs);
    wrong(keys, '192.0.2.1', 3);
    expect(() => keys.try('x', '192.0.2.1')).toThrow(expect.objectContaining({ retryAfterMs: 20_000 }));
    expect(() => keys.try('x', '::ffff:192.0.2.1')).toThrow();
    wrong(keys, '192.0.2.2', 3);
    wrong(keys, '2001:db8:1:2::1', 2);
    wrong(keys, '2001:db8:1:2:3:4:5:6', 1);
    expect(() => keys.try('x', '2001:db8:1:2::7')).toThrow();
    wrong(keys, '2001:db8:1:3::1', 1);
    nowMs += 20_000;
    wrong(keys, '192.0.2.1', 1);
    expect(() => keys.try('x', '192.0.2.1')).toThrow();
  });

  it('cost nothing if they are good, and shut out none that was', () => {
    const keys = createWrongKeys(2, () => nowMs);
    for (let n = 0; n < 10; n += 1) keys.try(`good-${n}`, 'here')(true);
    wrong(keys, 'here', 2);
    for (let n = 0; n < 10; n += 1) keys.try('good-1', 'here')(true);
    expect(() => keys.try('good-new', 'here')).toThrow();
    // Revoked: it is like any other from then on.
    keys.try('good-1', 'here')(false);
    expect(() => keys.try('good-1', 'here')).toThrow();
  });

  it('that are tried at once are counted at once', () => {
    const keys = createWrongKeys(2, () => nowMs);
    const first = keys.try('a', 'here');
    keys.try('b', 'here');
    expect(() => keys.try('c', 'here')).toThrow();
    first(true);
    expect(() => keys.try('c', 'here')).not.toThrow();
  });
});
