/** Lines of a log for a descriptor that somebody reads, or nobody: whoever writes them neither waits nor fails. */
import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { hasErrno } from './errno.ts';

const STDERR_FD = 2;

/** What a reader may be late with. */
const MAX_WAITING_BYTES = 1024 * 1024;
const RETRY_MS = 50;

/** For the log of this process. */
export function createStderrSink(): (line: string) => void {
  return createLineSink(openAgain() ?? unblocked());
}

/**
 * A terminal or a pipe once more, as one on which writes do not wait: they would for as long as it is stopped by Ctrl-S,
 * or its reader is. Nobody shares it, so that no program which has the same standard error can change that.
 */
function openAgain(): number | undefined {
  const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
  try {
    if (!isatty(STDERR_FD) && !fstatSync(STDERR_FD).isFIFO()) return undefined;
    return openSync(`/proc/self/fd/${STDERR_FD}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    // It is another user's.
    return undefined;
  }
}

/** A socket cannot be opened again: systemd's journal is one, and what Node gives its children. */
function unblocked(): number {
  // Node makes it one on which writes do not wait when it makes a stream of it, which it does when it is first asked for it.
  return process.stderr.fd;
}

/**
 * Takes whole lines, and writes each at once where the descriptor takes it: the last words before an exit arrive. What a
 * full pipe or a full disk does not take waits; above the bound lines are lost, each as a whole.
 */
export function createLineSink(fd: number, maxWaitingBytes = MAX_WAITING_BYTES): (line: string) => void {
  const waiting: Buffer[] = [];
  let waitingBytes = 0;
  let retry: NodeJS.Timeout | undefined;

  const flush = (): void => {
    clearTimeout(retry);
    try {
      for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
        const written = writeSync(fd, next);
        waitingBytes -= written;
        if (written === next.length) waiting.shift();
        else waiting[0] = next.subarray(written);
      }
    } catch (error) {
      // A reader comes back without a word. For the rest (a full disk, a reader that has left) the next line is soon enough.
      if (hasErrno(error, 'EAGAIN')) retry = setTimeout(flush, RETRY_MS).unref();
    }
  };

  return (line) => {
    const bytes = Buffer.from(line);
    const fits = (): boolean => waitingBytes + bytes.length <= maxWaitingBytes;
    if (!fits()) flush();
    if (!fits()) return;
    waiting.push(bytes);
    waitingBytes += bytes.length;
    flush();
  };
}
