import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { endToEnd, hostOf, targetOf } from './http-target.ts';

const head = (rawHeaders: string[], more: object = {}) => ({
  method: 'GET',
  url: '/',
  httpVersion: '1.1',
  rawHeaders,
  ...more,
});

describe('the target of a request', () => {
  it.each([
    ['example.com', 'example.com'],
    [' Example.COM.:80 ', 'example.com'],
    ['a.example:', 'a.example'],
  ])('%j is %s', (host, name) => expect(targetOf(head(['hOsT', host]))).toEqual({ name }));

  it.each([
    '',
    '192.0.2.1',
    '192.0.2.1:80',
    '[::1]',
    '[::1]:80',
    'localhost',
    'a.example:x',
    'a.example:80:80',
    'a@b.example',
    'a.example/..',
    'a.example b.example',
    'a.example,b.example',
    'a.example\0',
    'a.example#',
    'a.example:123456',
  ])('%j is none', (host) => expect(targetOf(head(['Host', host]))).toHaveProperty('refused'));

  it.each([
    head([]),
    head(['Host', 'a.example', 'host', 'a.example']),
    head(['Host', 'a.example'], { url: 'http://a.example/' }),
    head(['Host', 'a.example'], { url: '*' }),
    head(['Host', 'a.example'], { url: 'a.example:443', method: 'CONNECT' }),
    head(['Host', 'a.example'], { httpVersion: '2.0' }),
    head(['Host', 'a.example', 'Transfer-Encoding', 'gzip, chunked']),
    head(['Host', 'a.example', 'Transfer-Encoding', 'chunked', 'transfer-encoding', 'chunked']),
  ])('%j is refused', (request) => expect(targetOf(request)).toHaveProperty('refused'));

  it('is in the header, and a name, whatever that is', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary', maxLength: 300 }), fc.domain()), (text) => {
        const name = hostOf(text);
        if (name === undefined) return;
        expect(name).toMatch(/^[a-z0-9_-]+(\.[a-z0-9_-]+)+$/);
        expect(text.toLowerCase()).toContain(name);
      }),
    );
  });
});

describe('headers that go on', () => {
  it('are all but those between neighbours, and those alone', () => {
    const sent = [
      'Host',
      'a.example',
      'Connection',
      'close, X-Mine',
      'x-mine',
      '1',
      'Keep-Alive',
      '5',
      'TE',
      'trailers',
    ];
    expect(endToEnd([...sent, 'Upgrade', 'h2c', 'Cookie', 'a=b', 'cookie', 'c=d'])).toEqual([
      ...['Host', 'a.example', 'Cookie', 'a=b', 'cookie', 'c=d'],
    ]);
  });

  it('cannot be told to leave out whom the request is for, or how long it is', () => {
    const sent = ['Host', 'a.example', 'Content-Length', '3', 'Connection', 'host, content-length'];
    expect(endToEnd(sent)).toEqual(sent.slice(0, 4));
  });
});
