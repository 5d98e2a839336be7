import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type HeldFile, holdFile } from './held-file.ts';

const never = new AbortController().signal;
let dir: string;
let path: string;
let held: HeldFile | undefined;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-held-'));
  path = join(dir, 'layer');
  await writeFile(path, 'layer');
});
afterEach(async () => {
  held?.close();
  held = undefined;
  await rm(dir, { recursive: true });
});

/** A process of its own: the one that is held stands still in open(2). */
function opener(flags: '+<' | '<'): { readonly opened: Promise<unknown>; isOpen(): boolean } {
  const child = spawn('/usr/bin/perl', ['-e', 'open(my $f, $ARGV[0], $ARGV[1]) or exit 1;', flags, path]);
  let isOpen = false;
  const opened = once(child, 'exit').then(([code]: unknown[]) => {
    isOpen = code === 0;
  });
  return { opened, isOpen: () => isOpen };
}

describe('a file that is held', () => {
  it('is opened for writing once it is let through, and for reading at any time', async () => {
    held = await holdFile(path, never);
    const reader = opener('<');
    await reader.opened;
    expect(reader.isOpen()).toBe(true);
    const writer = opener('+<');
    await held.asked;
    await sleep(300);
    expect(writer.isOpen()).toBe(false);
    await held.letThrough();
    await writer.opened;
    expect(writer.isOpen()).toBe(true);
  });

  it('whose holder ends says so to whoever counts on it', async () => {
    held = await holdFile(path, never);
    held.close();
    await expect(held.asked).rejects.toMatchObject({ code: 'internal' });
    await expect(held.letThrough()).rejects.toMatchObject({ code: 'internal' });
    const writer = opener('+<');
    await writer.opened;
    expect(writer.isOpen()).toBe(true);
  });

  it('may still be open for writing for a moment, and not for longer', async () => {
    const file = await open(path, 'r+');
    const holding = holdFile(path, never);
    await sleep(100);
    await file.close();
    held = await holding;
    held.close();
    const busy = await open(path, 'r+');
    try {
      await expect(holdFile(path, never)).rejects.toMatchObject({ code: 'internal' });
    } finally {
      await busy.close();
    }
  });

  it('is not, when it is missing or the caller has given up', async () => {
    await expect(holdFile(join(dir, 'missing'), never)).rejects.toMatchObject({ code: 'internal' });
    await expect(holdFile(path, AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
  });
});
