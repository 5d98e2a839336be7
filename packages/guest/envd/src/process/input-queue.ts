/**
 * Writes input into a process, in order and with back-pressure: each write is done when the kernel has
 * taken its bytes. What waits is bounded, so a process that never reads costs a fixed amount.
 */
import { closeSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';
import { logError } from '../log.ts';
import { errnoCode } from '../sys/errno.ts';

export interface InputQueue {
  /** Throws `failed_precondition` if the process reads no more, and the reason of `signal` if it aborts first. */
  write(bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  /** Ends the input after all writes before it. Idempotent. */
  close(): Promise<void>;
  /** Gives up whatever waits: the process is gone. Idempotent. */
  destroy(): void;
}

const SLICE_BYTES = 64 * 1024;
const WAITING_MAX_BYTES = 64 * 1024 * 1024;

/** Takes the descriptor over and closes it in the end. It must not block. */
export function createInputQueue(fd: number): InputQueue {
  const gone = new AbortController();
  let sink: Bun.FileSink | undefined;
  /** Settles when the kernel has taken what was last written; never rejects. */
  let idle: Promise<unknown> = Promise.resolve();
  /** Settles when the writes so far are done or given up; never rejects. */
  let turn: Promise<unknown> = Promise.resolve();
  let closing: Promise<void> | undefined;
  let waitingBytes = 0;

  async function writeSlice(slice: Uint8Array): Promise<void> {
    sink ??= Bun.file(fd).writer({ highWaterMark: SLICE_BYTES });
    // Either may be the one that reports a broken pipe.
    await Promise.all([sink.write(slice), sink.flush()]);
  }

  async function writeSlices(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    for (let offset = 0; offset < bytes.length; offset += SLICE_BYTES) {
      await abortable(idle, signal);
      const written = writeSlice(bytes.subarray(offset, offset + SLICE_BYTES));
      idle = written.catch(() => {});
      await abortable(written, signal);
    }
  }

  async function finish(): Promise<void> {
    await idle;
    try {
      await sink?.end();
    } catch (error) {
      if (errnoCode(error) !== 'EPIPE') logError('ending the input of a process failed', error);
    }
    closeSync(fd);
  }

  function close(): Promise<void> {
    closing ??= turn.then(finish);
    return closing;
  }

  return {
    write: async (bytes, signal) => {
      if (closing !== undefined) throw notWritable('stdin not enabled or closed');
      if (waitingBytes > 0 && waitingBytes + bytes.length > WAITING_MAX_BYTES) {
        throw new ConnectError('too much input waits for the process to read it', Code.ResourceExhausted);
      }
      waitingBytes += bytes.length;
      const ending = AbortSignal.any([signal, gone.signal]);
      const work = turn.then(() => writeSlices(bytes, ending));
      turn = work.catch(() => {});
      try {
        await work;
      } catch (error) {
        if (errnoCode(error) === 'EPIPE') throw notWritable('the process does not read its input any more');
        throw error;
      } finally {
        waitingBytes -= bytes.length;
      }
    },
    close,
    destroy: () => {
      gone.abort(notWritable('the process has ended'));
      void close();
    },
  };
}

function notWritable(reason: string): ConnectError {
  return new ConnectError(`error writing to the process: ${reason}`, Code.FailedPrecondition);
}

function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) {
      abort();
      return;
    }
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
