import { describe, expect, it } from 'vitest';
import { metadataOf, readMetadata, refuseMetadata, writeMetadata, type Xattrs } from './metadata.ts';

/** Attributes as a file system keeps them: names to bytes. */
function attributes(
  initial: Record<string, Uint8Array> = {},
): Xattrs & { readonly kept: Map<string, Uint8Array> } {
  const kept = new Map(Object.entries(initial));
  return {
    kept,
    list: () => new TextEncoder().encode([...kept.keys()].map((name) => `${name}\0`).join('')),
    get: (_path, name) => kept.get(name) ?? new Uint8Array(0),
    set: (_path, name, value) => void kept.set(name, value),
    remove: (_path, name) => void kept.delete(name),
  };
}

const bytes = (text: string) => new TextEncoder().encode(text);

describe('metadataOf', () => {
  it('takes the headers with the prefix, in lower case', () => {
    const headers = new Headers({ 'X-Metadata-Author': 'me', 'x-metadata-': 'no key', Accept: '*/*' });
    expect(metadataOf(headers)).toEqual({ author: 'me' });
  });
});

describe('refuseMetadata', () => {
  it('lets sensible metadata pass, also an empty value', () => {
    expect(refuseMetadata({ author: 'me', empty: '' })).toBeUndefined();
  });
  it.each([
    ['a key beyond what the kernel allows', { ['k'.repeat(247)]: '' }],
    ['a value with a control character', { key: 'a\nb' }],
    ['a value beyond ASCII', { key: 'ä' }],
    ['more than fits into a block', { a: 'x'.repeat(2050), b: 'y'.repeat(2050) }],
  ])('refuses %s', (_what, metadata) => {
    expect(refuseMetadata(metadata)).toBeTypeOf('string');
  });
  it('allows the longest key', () => {
    expect(refuseMetadata({ ['k'.repeat(246)]: '' })).toBeUndefined();
  });
});

describe('writeMetadata and readMetadata', () => {
  it('replace what was there before and leave the attributes of others alone', () => {
    const xattrs = attributes({ 'user.e2b.old': bytes('1'), 'user.other': bytes('2') });
    expect(writeMetadata(xattrs, '/f', { author: 'me' })).toBe(true);
    expect([...xattrs.kept.keys()].sort()).toEqual(['user.e2b.author', 'user.other']);
    expect(readMetadata(xattrs, '/f')).toEqual({ author: 'me' });
  });

  it('leave out what is no text', () => {
    const xattrs = attributes({ 'user.e2b.a': new Uint8Array([0xff]), 'user.e2b.b': bytes('ä') });
    expect(readMetadata(xattrs, '/f')).toEqual({ b: 'ä' });
  });

  it('read no more than an entry may hold', () => {
    const big = bytes('x'.repeat(40_000));
    const xattrs = attributes({ 'user.e2b.a': big, 'user.e2b.b': big });
    expect(Object.keys(readMetadata(xattrs, '/f'))).toEqual(['a']);
  });

  it('do without where the file system keeps no attributes, and pass other errors on', () => {
    const failing = (code: string): Xattrs => ({
      ...attributes(),
      list: () => {
        throw Object.assign(new Error(code), { code });
      },
    });
    expect(writeMetadata(failing('ENOTSUP'), '/f', { a: 'b' })).toBe(false);
    expect(() => writeMetadata(failing('EIO'), '/f', {})).toThrow('EIO');
    expect(readMetadata(failing('EIO'), '/f')).toEqual({});
  });
});
