/** With nothing to set up: what counts is how it ends. */
import { EventEmitter } from 'node:events';
import { ensureArtifacts, ensureSystemPackages } from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { watchOutputs } from '../lost-output.ts';
import { setUp } from './setup.ts';

vi.mock('@wrenn/images', { spy: true });

const stdout = new EventEmitter();
watchOutputs({ stdout, stderr: new EventEmitter() }, () => {});
const lose = (code: string) => stdout.emit('error', Object.assign(new Error(`${code}: write`), { code }));

beforeEach(() => {
  vi.mocked(ensureSystemPackages).mockImplementation(async ({ signal }) => {
    signal?.throwIfAborted();
  });
  vi.mocked(ensureArtifacts).mockResolvedValue(undefined);
});
afterEach(() => vi.restoreAllMocks());

/** What is at work as its step is told. */
function whileAtWork(action: () => void): void {
  vi.mocked(ensureArtifacts).mockImplementation(async ({ signal }) => {
    action();
    if (signal?.aborted) throw new WrennError('cancelled', 'Cancelled, half way.');
  });
}

it('ends with 0', async () => {
  expect(await setUp({ json: true })).toBe(0);
});

it('ends without a word where nobody reads it any more', async () => {
  whileAtWork(() => lose('EPIPE'));
  expect(await setUp({ json: true })).toBe(141);
});

it('does not end well where its last lines were lost', async () => {
  vi.mocked(ensureArtifacts).mockImplementation(async () => void lose('EPIPE'));
  expect(await setUp({ json: true })).toBe(141);
});

it('says that the disk is full', async () => {
  whileAtWork(() => lose('ENOSPC'));
  await expect(setUp({ json: true })).rejects.toMatchObject({ code: 'disk_full' });
});

it('says what a signal has left it with', async () => {
  whileAtWork(() => process.emit('SIGTERM'));
  await expect(setUp({ json: true })).rejects.toMatchObject({ message: 'Cancelled, half way.' });
});
