import { WrennError } from '@wrenn/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { printable } from '../printable.ts';
import { expectEmpty, expectJson } from './answer.ts';
import { instanceInfoSchema } from './api-types.ts';

const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;

function caught(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
}

function fault(message: string) {
  return { status: 400, body: Buffer.from(JSON.stringify({ fault_message: message })) };
}

describe('answers of the API', () => {
  it('whatever the bytes are, the outcome is data or a short printable error', () => {
    const body = fc.oneof(
      fc.uint8Array({ maxLength: 2_000 }),
      fc.json().map((text) => Buffer.from(text)),
      fc
        .record({ fault_message: fc.string({ unit: 'binary', maxLength: 3_000 }) })
        .map((value) => Buffer.from(JSON.stringify(value))),
    );
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 999 }), body, (status, bytes) => {
        const answer = { status, body: bytes };
        const errors = [
          caught(() => expectEmpty('PUT /drives/base', answer)),
          caught(() => expectJson('GET /', answer, (value) => instanceInfoSchema.safeParse(value))),
        ];
        expect(errors[0] === undefined).toBe(status === 204);
        for (const error of errors) {
          if (error === undefined) continue;
          if (!(error instanceof WrennError)) throw error;
          expect(error.code).toBe('vmm_api_error');
          expect(error.message.length).toBeLessThan(4_000);
          expect(error.message).not.toMatch(UNPRINTABLE);
        }
      }),
      { numRuns: 300 },
    );
  }, 60_000);

  it('reads what Firecracker says of an instance, and lets later fields pass', () => {
    const info = { app_name: 'Firecracker', id: 'x', state: 'Not started', vmm_version: '1.16.1', more: 1 };
    const answer = { status: 200, body: Buffer.from(JSON.stringify(info)) };
    expect(expectJson('GET /', answer, (value) => instanceInfoSchema.safeParse(value))).toMatchObject({
      state: 'Not started',
      vmm_version: '1.16.1',
    });
  });

  it.each([
    ['Start microvm error: Error creating KVM object: Permission denied (os error 13)', /\/dev\/kvm/],
    [
      'Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)',
      /vmlinux/,
    ],
    ['Network config error: Cannot open/create the tap device: Resource busy', /TAP/],
    ['Drive config error: Unable to create the virtio block device: No such file', /image/],
    ['An error occurred when deserializing the json body of a request: unknown field `x`.', /version/],
  ])('tells what to do about: %s', (message, hint) => {
    const error = caught(() => expectEmpty('PUT /actions', fault(message)));
    expect(error).toMatchObject({ code: 'vmm_api_error', hint: expect.stringMatching(hint) });
    expect(String(error)).toContain(message);
    expect(String(error)).toContain('PUT /actions');
  });

  it('escapes what could drive a terminal', () => {
    const error = caught(() => expectEmpty('PUT /vm', fault('\u001b[2J\u202egone\r\nroot: fine')));
    expect(String(error)).toContain('\\x1b[2J\\u{202e}gone\\x0d\\x0aroot: fine');
  });

  it('cuts long text between characters', () => {
    expect(printable('ab', 2)).toBe('ab');
    expect(printable('abc', 2)).toBe('ab…');
    expect(printable('🐦🐦🐦', 2)).toBe('🐦🐦…');
    expect(printable('\ud800')).toBe('\\u{d800}');
  });
});
