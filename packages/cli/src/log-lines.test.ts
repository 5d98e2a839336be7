import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jsonLine, readableLine, splitLines } from './log-lines.ts';

describe('a log line', () => {
  it('has local time, level, who, sandbox and what', () => {
    const time = new Date(2026, 0, 2, 3, 4, 5).toISOString();
    const event = {
      level: 'info',
      time,
      pid: 7,
      sandboxId: 'abc',
      msg: 'state',
      state: 'running',
      note: 'a b',
    };
    expect(readableLine('agent', JSON.stringify(event))).toBe(
      '03:04:05 INFO  agent abc state state=running note="a b"',
    );
  });

  it('tells an error without its stack', () => {
    const err = { code: 'internal', message: 'It broke.', stack: 'at x' };
    const line = readableLine('api', JSON.stringify({ level: 'error', time: 'x', msg: 'failed', err }));
    expect(line).toBe('x ERROR api   failed internal: It broke.');
  });

  it('is JSON for programs, whatever it was', () => {
    const event = JSON.stringify({ level: 'info', time: 'x', msg: 'state' });
    expect(jsonLine('api', event)).toBe(event);
    const said = 'wrenn: No host agent answers.';
    expect(JSON.parse(jsonLine('api', said))).toMatchObject({ level: 'warn', source: 'api', msg: said });
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        expect(JSON.parse(jsonLine('api', text))).toMatchObject({ source: 'api', msg: text });
      }),
    );
  });

  it('is one line whatever is in it', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), fc.string(), (text, msg) => {
        const event = JSON.stringify({ level: 'warn', time: msg, msg, key: text });
        for (const line of [text, event]) expect(readableLine('api', line)).not.toMatch(/\p{Cc}/u);
      }),
    );
  });
});

describe('lines', () => {
  it('come out whole, however they come in', () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[a-zäöü€]{1,40}$/)),
        fc.integer({ min: 1, max: 7 }),
        (lines, step) => {
          const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));
          const seen: string[] = [];
          const push = splitLines((line) => seen.push(line));
          for (let at = 0; at < bytes.length; at += step) push(bytes.subarray(at, at + step));
          expect(seen).toEqual(lines);
        },
      ),
    );
  });

  it('that never end are cut', () => {
    const seen: string[] = [];
    const push = splitLines((line) => seen.push(line));
    for (let index = 0; index < 100; index += 1) push(Buffer.alloc(1024, 97));
    expect(seen.length).toBeGreaterThan(3);
  });
});
