/**
 * The log that a VMM appends to by itself, as its standard error: a file, so that it never waits for a reader
 * and its last words survive the agent. The agent cuts it back now and then; as both append, nobody's place
 * in it goes wrong.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { WrennError } from '@wrenn/protocol';
import { linesOf } from './output.ts';

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants;

const SIZE_LIMIT_BYTES = 256 * 1024;
const KEPT_BYTES = 64 * 1024;
const CHECK_INTERVAL_MS = 10_000;

export interface AppendedLog {
  /** For the VMM to inherit. */
  readonly fd: number;
  /** The last lines, oldest first, control characters escaped. Empty once closed. */
  tail(maxLines: number): Promise<string[]>;
  /** Idempotent. */
  close(): Promise<void>;
}

export async function openAppendedLog(
  path: string,
  onProblem: (error: unknown) => void,
): Promise<AppendedLog> {
  const handle = await open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600);
  const stats = await handle.stat();
  if (!stats.isFile() || stats.nlink !== 1) {
    await handle.close();
    throw new WrennError('internal', `${path} is not the log that Wrenn made.`, {
      hint: "Something else wrote in the sandbox's directory; destroy the sandbox.",
    });
  }
  let closed = false;
  const timer = setInterval(() => {
    if (!closed) cutBack(handle).catch((error: unknown) => !closed && onProblem(error));
  }, CHECK_INTERVAL_MS);
  timer.unref();
  return {
    fd: handle.fd,
    tail: async (maxLines) => (closed ? [] : linesOf(await readEnd(handle), maxLines)),
    async close() {
      if (closed) return;
      closed = true;
      clearInterval(timer);
      await handle.close();
    },
  };
}

async function cutBack(handle: FileHandle): Promise<void> {
  if ((await handle.stat()).size <= SIZE_LIMIT_BYTES) return;
  const end = await readEnd(handle);
  await handle.truncate(0);
  await handle.appendFile(end);
}

async function readEnd(handle: FileHandle): Promise<Buffer> {
  const { size } = await handle.stat();
  const buffer = Buffer.alloc(Math.min(size, KEPT_BYTES));
  const { bytesRead } = await handle.read(buffer, 0, buffer.length, size - buffer.length);
  return buffer.subarray(0, bytesRead);
}
