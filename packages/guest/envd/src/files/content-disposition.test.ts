import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inlineDisposition, parsePartDisposition } from './content-disposition.ts';

describe('inlineDisposition', () => {
  it.each([
    ['report.txt', 'inline; filename=report.txt'],
    ['two words.txt', 'inline; filename="two words.txt"'],
    ['a"b\\c', 'inline; filename="a\\"b\\\\c"'],
    ['grün.txt', "inline; filename*=utf-8''gr%C3%BCn.txt"],
    ['a\nb', "inline; filename*=utf-8''a%0Ab"],
  ])('of %j is %j', (name, header) => {
    expect(inlineDisposition(name)).toBe(header);
  });

  it('is always a header that can be sent', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (name) => {
        expect(new Headers({ x: inlineDisposition(name) }).get('x')).toMatch(/^[\x20-\x7e]*$/);
      }),
    );
  });
});

describe('parsePartDisposition', () => {
  it.each([
    ['form-data; name="file"; filename="/a/b c.txt"', { name: 'file', fileName: '/a/b c.txt' }],
    ['form-data; name=file; filename=x', { name: 'file', fileName: 'x' }],
    ['form-data; filename="a\\"b"; name="file"', { name: 'file', fileName: 'a"b' }],
    ['form-data; name="file"; filename="C:\\dir\\x"', { name: 'file', fileName: 'C:\\dir\\x' }],
    ['form-data; name="a;b"; filename="c=d"', { name: 'a;b', fileName: 'c=d' }],
    ["form-data; name=file; filename=x; filename*=utf-8''%C3%BC", { name: 'file', fileName: 'ü' }],
    ["form-data; name=file; filename=x; filename*=utf-8''%zz", { name: 'file', fileName: 'x' }],
    ['form-data', { name: undefined, fileName: undefined }],
    ['attachment; name="file"', undefined],
  ])('of %j is %j', (header, disposition) => {
    expect(parsePartDisposition(header)).toEqual(disposition);
  });
});
