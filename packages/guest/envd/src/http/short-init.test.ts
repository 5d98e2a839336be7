import fc from 'fast-check';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { createAccessToken } from '../auth.ts';
import { createShortInit, type ShortInit } from './short-init.ts';

const bytes = (text: string) => Buffer.from(text);

describe('an /init in a datagram', () => {
  const accessToken = createAccessToken();
  accessToken.set('secret');
  let applied: string[];
  let problem: Error | undefined;
  let short: ShortInit;
  let refused: string[];
  const take = (datagram: Uint8Array) => short.take(datagram, (why) => refused.push(why));
  beforeEach(() => {
    vi.useFakeTimers();
    applied = [];
    problem = undefined;
    refused = [];
    const apply = (body: string): void => {
      if (problem !== undefined) throw problem;
      applied.push(body);
    };
    short = createShortInit(accessToken, { apply, answer: () => Promise.reject(new Error('not here')) });
    return () => vi.useRealTimers();
  });

  it('is taken at once, and applied with the next request or soon', () => {
    expect(take(bytes('secret\n{"a":1}'))).toBe(true);
    expect(applied).toEqual([]);
    expect(short.settle()).toBeUndefined();
    expect(applied).toEqual(['{"a":1}']);
    expect(take(bytes('secret\n{"a":2}'))).toBe(true);
    vi.runAllTimers();
    expect(short.settle()).toBeUndefined();
    expect(applied).toEqual(['{"a":1}', '{"a":2}']);
  });

  it('is kept, whatever becomes of the memory that it came in, and applied before the next one', () => {
    const datagram = bytes('secret\none');
    take(datagram);
    datagram.fill(0);
    take(bytes('secret\ntwo'));
    expect(applied).toEqual(['one']);
    short.settle();
    expect(applied).toEqual(['one', 'two']);
  });

  it('that could not be applied stands in the way of all, until another one was', () => {
    problem = new Error('no room');
    take(bytes('secret\n{}'));
    vi.spyOn(console, 'error').mockImplementation(() => {});
    vi.runAllTimers();
    expect(short.settle()).toContain('no room');
    expect(short.settle()).toContain('no room');
    expect(refused).toEqual([expect.stringContaining('no room')]);
    short.replaced();
    expect(short.settle()).toBeUndefined();
    problem = undefined;
    take(bytes('secret\n{}'));
    vi.runAllTimers();
    expect(refused).toHaveLength(1);
  });

  it('is nothing without the token', () => {
    const wrong = ['', 'secret', 'secrets\n', 'secre\n', '\n', 'Secret\n{}', 'secret {}', ' secret\n{}'];
    for (const text of wrong) expect(take(bytes(text))).toBe(false);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (noise) => {
        fc.pre(!Buffer.from(noise).toString('latin1').startsWith('secret\n'));
        expect(take(noise)).toBe(false);
      }),
    );
    expect(createAccessToken().leads(bytes('\n{}'))).toBeUndefined();
    vi.runAllTimers();
    expect(applied).toEqual([]);
  });

  it('needs no token where there is none yet, which the first of them sets', () => {
    const fresh = createAccessToken();
    const apply = (body: string): void => {
      applied.push(body);
      fresh.set(body);
    };
    short = createShortInit(fresh, { apply, answer: () => Promise.reject(new Error('not here')) });
    expect(take(bytes('{}'))).toBe(false);
    expect(take(bytes('whatever\nmine'))).toBe(true);
    expect(take(bytes('whatever\nyours'))).toBe(false);
    expect(applied).toEqual(['mine']);
    expect(take(bytes('mine\nlater'))).toBe(true);
  });
});
