/**
 * What VMMs and their guests print, kept bounded on every side: what the agent reads goes into a ring in
 * memory and a bounded file, from which a restarted agent fills its ring.
 *
 * Firecracker's two streams go through FIFOs in the run directory. The VMM holds each open for reading and
 * writing, without blocking: so a full FIFO makes it drop bytes, never wait, and with no agent alive to read
 * there is neither EPIPE nor growth. The agent's reader ends by itself when the VMM is gone. QEMU's console
 * is a socket, which drops what nobody is connected to read.
 *
 * The run directory is the VMM's until its guest runs, and an earlier one may have left links in it: files are opened
 * without following links, checked for what they are, and from then on used through the descriptor alone.
 */
import { closeSync, constants, fstatSync, openSync, type Stats, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { printable } from './printable.ts';

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;

/** Kept in memory, and read back from the file after a restart. */
export const RING_BYTES = 64 * 1024;
/** The file is cut back to the ring when it would grow beyond this. */
export const FILE_LIMIT_BYTES = 256 * 1024;
/** A stream that is faster is read no faster: the FIFO fills and the VMM drops. */
export const READ_BYTES_PER_SECOND = 256 * 1024;
/** After each read: a guest that prints byte by byte must not wake the agent for each of them. */
const PAUSE_MS = 10;
const LINE_SHOWN_CHARS = 2_000;

export interface OutputPaths {
  readonly fifo: string;
  readonly file: string;
}

export interface OutputReader {
  /** The last lines, oldest first, control characters escaped. */
  tail(maxLines: number): string[];
  /** Resolves when everything was read, because every writer is gone or `close` was called; never rejects. */
  readonly ended: Promise<void>;
  close(): void;
}

/** Opens a FIFO for the VMM to inherit: for reading too, so that it never sees a broken pipe. */
export function openFifoForVmm(path: string): number {
  return openChecked(path, O_RDWR | O_NONBLOCK, (stats) => stats.isFIFO());
}

/** Starts reading a FIFO. `onProblem` is told once, for the log, if the output cannot be kept on disk any more. */
export async function readOutput(
  paths: OutputPaths,
  onProblem: (error: unknown) => void,
): Promise<OutputReader> {
  const fd = openChecked(paths.fifo, O_RDONLY | O_NONBLOCK, (stats) => stats.isFIFO());
  return keepOutput(new Socket({ fd, readable: true, writable: false }), paths.file, onProblem);
}

/** The same for a stream that is open already: takes it over, and closes it in the end. */
export async function keepOutput(
  socket: Socket,
  file: string,
  onProblem: (error: unknown) => void,
): Promise<OutputReader> {
  const ring = createRing(RING_BYTES);
  const kept = await openLogFile(file, ring).catch((error: unknown) => {
    onProblem(error);
    return undefined;
  });
  const ended = pump(socket, ring, kept, onProblem);
  return {
    tail: (maxLines) => linesOf(ring.bytes(), maxLines),
    ended,
    close() {
      // Taken from the VMM already, but not yet from the stream. At once, as the agent may be about to end.
      const rest: unknown = socket.read();
      socket.destroy();
      if (!Buffer.isBuffer(rest)) return;
      ring.push(rest);
      try {
        kept?.appendNow(rest);
      } catch (error) {
        onProblem(error);
      }
    },
  };
}

async function pump(
  socket: Socket,
  ring: Ring,
  file: LogFile | undefined,
  onProblem: (error: unknown) => void,
): Promise<void> {
  let keptOnDisk = file;
  try {
    for await (const chunk of socket) {
      if (!Buffer.isBuffer(chunk)) continue;
      ring.push(chunk);
      try {
        await keptOnDisk?.append(chunk);
      } catch (error) {
        keptOnDisk = undefined;
        onProblem(error);
      }
      const pauseMs = PAUSE_MS + (chunk.length / READ_BYTES_PER_SECOND) * 1000;
      await sleep(pauseMs, undefined, { ref: false });
    }
  } catch (error) {
    // `close` ends the loop with an error of its own, which is no problem.
    if (!(error instanceof Error && 'code' in error && error.code === 'ERR_STREAM_PREMATURE_CLOSE')) {
      onProblem(error);
    }
  } finally {
    await file?.close().catch(onProblem);
  }
}

interface Ring {
  push(chunk: Uint8Array): void;
  /** A copy of what is kept, oldest first. */
  bytes(): Buffer;
}

/** Keeps the last `sizeBytes` bytes of what is pushed. */
export function createRing(sizeBytes: number): Ring {
  const memory = Buffer.alloc(sizeBytes);
  let written = 0;
  return {
    push(chunk) {
      const kept = chunk.subarray(Math.max(0, chunk.length - sizeBytes));
      const start = (written + chunk.length - kept.length) % sizeBytes;
      const first = Math.min(kept.length, sizeBytes - start);
      memory.set(kept.subarray(0, first), start);
      memory.set(kept.subarray(first), 0);
      written += chunk.length;
    },
    bytes() {
      if (written <= sizeBytes) return Buffer.from(memory.subarray(0, written));
      const oldest = written % sizeBytes;
      return Buffer.concat([memory.subarray(oldest), memory.subarray(0, oldest)]);
    },
  };
}

/** The last lines of a text that may begin in the middle of one, and of a character. */
export function linesOf(bytes: Uint8Array, maxLines: number): string[] {
  const lines = new TextDecoder().decode(bytes).split(/\r*\n/);
  if (lines.at(-1) === '') lines.pop();
  if (maxLines <= 0) return [];
  return lines
    .slice(-maxLines)
    .map((line) => printable(line.replaceAll('\t', '    ').replace(/\r+$/, ''), LINE_SHOWN_CHARS));
}

/** The last lines of a console of which nothing runs any more; none where it was not kept. */
export async function readKept(path: string, maxLines: number): Promise<string[]> {
  const handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(() => undefined);
  if (handle === undefined) return [];
  try {
    const stats = await handle.stat();
    return stats.isFile() && stats.nlink === 1 ? linesOf(await readEnd(handle, stats.size), maxLines) : [];
  } finally {
    await handle.close();
  }
}

interface LogFile {
  append(chunk: Uint8Array): Promise<void>;
  /** May go beyond the limit, by what a stream buffers. Nothing once closed. */
  appendNow(chunk: Uint8Array): void;
  close(): Promise<void>;
}

/** Opens the file, fills the ring from what an earlier agent left in it, and appends from then on. */
async function openLogFile(path: string, ring: Ring): Promise<LogFile> {
  const handle = await open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o640);
  try {
    const stats = await handle.stat();
    if (!stats.isFile() || stats.nlink !== 1) throw notWhatItWas(path);
    let sizeBytes = stats.size;
    ring.push(await readEnd(handle, sizeBytes));
    return {
      async append(chunk) {
        if (sizeBytes + chunk.length > FILE_LIMIT_BYTES) {
          // The ring holds the chunk already.
          await handle.truncate(0);
          sizeBytes = 0;
          await handle.appendFile(ring.bytes());
          sizeBytes = (await handle.stat()).size;
          return;
        }
        await handle.appendFile(chunk);
        sizeBytes += chunk.length;
      },
      appendNow(chunk) {
        if (handle.fd >= 0) sizeBytes += writeSync(handle.fd, chunk);
      },
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function readEnd(handle: FileHandle, sizeBytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(Math.min(sizeBytes, RING_BYTES));
  const { bytesRead } = await handle.read(buffer, 0, buffer.length, Math.max(0, sizeBytes - RING_BYTES));
  return buffer.subarray(0, bytesRead);
}

function openChecked(path: string, flags: number, isExpected: (stats: Stats) => boolean): number {
  const fd = openSync(path, flags | O_NOFOLLOW);
  if (isExpected(fstatSync(fd))) return fd;
  closeSync(fd);
  throw notWhatItWas(path);
}

function notWhatItWas(path: string): WrennError {
  return new WrennError('internal', `${printable(path)} is not what Wrenn made it.`, {
    hint: "Something else wrote in the sandbox's directory; destroy the sandbox.",
  });
}
