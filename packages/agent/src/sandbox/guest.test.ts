import { getEventListeners } from 'node:events';
import { create } from '@bufbuild/protobuf';
import { TimestampSchema, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { EntryInfoSchema } from '@wrenn/protocol/filesystem';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EnvdClient } from '../envd-client/client.ts';
import { createGuestFiles, type GuestFiles } from './guest.ts';

const FILE = { path: '/f', user: undefined };
const TIMEOUTS = { guestRequestMs: 1000, guestStallMs: 1000 };

function filesOf(envd: Partial<EnvdClient>): { files: GuestFiles; released: () => number } {
  let count = 0;
  const files = createGuestFiles(
    () => ({
      envd: envd as EnvdClient,
      signal: new AbortController().signal,
      mayBeSilent: () => false,
      release: () => {
        count += 1;
      },
    }),
    TIMEOUTS,
  );
  return { files, released: () => count };
}

describe('files in a guest', () => {
  it('that were read leave nothing with a caller who stays', async () => {
    const { files, released } = filesOf({
      readFile: async (path) => {
        if (path === '/missing') throw new Error('missing');
        return (async function* () {
          yield Buffer.from('one');
          yield Buffer.from('two');
        })();
      },
    });
    const { signal } = new AbortController();
    for await (const _chunk of files.read(FILE, signal));
    for await (const _chunk of files.read(FILE, signal)) break;
    await expect(files.read({ ...FILE, path: '/missing' }, signal).next()).rejects.toThrow('missing');
    expect(released()).toBeGreaterThanOrEqual(3);
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  it('have a time that can be told, whatever their guest says', async () => {
    const seconds = fc.oneof(
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      fc.constantFrom(0n, 253_402_300_799n, 253_402_300_800n, -62_135_596_800n, 2n ** 63n - 1n),
    );
    const nanos = fc.oneof(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), fc.nat(999_999_999));
    await fc.assert(
      fc.asyncProperty(seconds, nanos, async (told, toldNanos) => {
        const modifiedTime = create(TimestampSchema, { seconds: told, nanos: toldNanos });
        const { files } = filesOf({
          stat: async () => create(EntryInfoSchema, { path: '/f', modifiedTime }),
        });
        const { modifiedAtMs } = await files.stat(FILE, new AbortController().signal);
        if (modifiedAtMs === undefined) return;
        // As a Timestamp is defined: within the years 1 and 9999.
        expect(new Date(modifiedAtMs).getUTCFullYear()).toBeGreaterThanOrEqual(1);
        expect(new Date(modifiedAtMs).getUTCFullYear()).toBeLessThanOrEqual(9999);
        expect(timestampFromMs(modifiedAtMs).nanos).toBeGreaterThanOrEqual(0);
      }),
    );
    const now = timestampFromMs(1_700_000_000_123);
    const { files } = filesOf({
      stat: async () => create(EntryInfoSchema, { path: '/f', modifiedTime: now }),
    });
    expect((await files.stat(FILE, new AbortController().signal)).modifiedAtMs).toBe(1_700_000_000_123);
  });
});
