/** The floors of hibernate and resume: the bytes of a guest's memory that are not zero, written and read by hand. */
import { open, rm, stat } from 'node:fs/promises';
import { runCommand } from '@wrenn/host';
import { timeMs } from './samples.ts';

const CHUNK_BYTES = 1024 * 1024;
const BLOCK_BYTES = 512;
const TIMEOUT_MS = 60_000;

/** What a sparse file takes. */
export async function usedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * BLOCK_BYTES;
}

/** So many bytes into a new file, and onto the disk. The file stays, for `readRaw`. */
export async function writeRaw(path: string, sizeBytes: number): Promise<number> {
  await rm(path, { force: true });
  // Nothing that any layer below could leave out.
  const chunk = Buffer.alloc(CHUNK_BYTES, 'not zero ');
  return timeMs(async () => {
    const file = await open(path, 'wx');
    for (let left = sizeBytes; left > 0; left -= CHUNK_BYTES) {
      await file.write(chunk, 0, Math.min(left, CHUNK_BYTES));
    }
    await file.sync();
    await file.close();
  });
}

export async function readRaw(path: string): Promise<number> {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  return timeMs(async () => {
    const file = await open(path, 'r');
    while ((await file.read(chunk, 0, CHUNK_BYTES)).bytesRead > 0);
    await file.close();
  });
}

/** Takes a file that is on the disk out of the page cache. */
export async function forgetPages(path: string): Promise<void> {
  const args = [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'];
  await runCommand('dd', ['if=/dev/null', ...args], { timeoutMs: TIMEOUT_MS });
}
