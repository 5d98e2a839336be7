/** What a caller sends to a command: bytes in order and with back-pressure, sizes and signals at once. */
import { WrennError } from '@wrenn/protocol';
import type { EnvdClient } from '../envd-client/client.ts';
import type { ExecInput } from './exec.ts';

export interface InputSender {
  /** Settles when the input has ended and all of it was taken, or the process takes no more. */
  pump(inputs: AsyncIterable<ExecInput>): Promise<void>;
}

export interface InputSenderOptions {
  readonly envd: EnvdClient;
  readonly pid: number;
  readonly terminal: boolean;
  /** Whether the guest stands still, or did a moment ago. */
  readonly mayBeSilent: () => boolean;
  readonly signal: AbortSignal;
}

/** One request to the guest carries at most this. */
const SLICE_BYTES = 256 * 1024;
/**
 * Taken from the caller ahead of the process: room for a signal to overtake bytes that nobody reads. The
 * message that crosses it is still taken, so one message more may wait.
 */
const AHEAD_MAX_BYTES = 1024 * 1024;
const AHEAD_MAX_PIECES = 4096;
const CTRL_D = Uint8Array.of(4);
const SIGTERM = 15;
const SIGKILL = 9;

export function createInputSender(options: InputSenderOptions): InputSender {
  const { envd, pid, terminal, mayBeSilent, signal } = options;
  const waiting: Uint8Array[] = [];
  let waitingBytes = 0;
  let closing = false;
  let closed = false;
  /** The process reads no more: what comes is dropped, as a closed pipe would. */
  let deaf = false;
  let sending: Promise<void> | undefined;
  let failure: unknown;
  let wake = (): void => {};
  signal.addEventListener('abort', () => wake(), { once: true });

  /** To a process that may have ended. A guest that stands still finds it in its socket when it goes on. */
  const given = async (work: Promise<void>): Promise<void> => {
    try {
      await work;
    } catch (error) {
      if (!isLate(error) && !isProcessGone(error)) throw error;
    }
  };
  const isLate = (error: unknown): boolean =>
    error instanceof WrennError && error.code === 'deadline_exceeded' && mayBeSilent();

  /** Once more while the guest stands still: nothing but this ends the command, and it may have been lost with its connection. */
  const closeInput = async (): Promise<void> => {
    for (;;) {
      try {
        return await envd.closeStdin(pid, signal);
      } catch (error) {
        if (!isLate(error) || signal.aborted) throw error;
      }
    }
  };

  const giveUp = (): void => {
    deaf = true;
    waiting.length = 0;
    waitingBytes = 0;
  };

  const send = async (): Promise<void> => {
    while (waiting.length > 0 && !deaf) {
      const slice = takeSlice(waiting);
      const taken = await envd.sendInput(pid, terminal ? 'pty' : 'stdin', slice, signal);
      if (!taken) return giveUp();
      waitingBytes -= slice.length;
      wake();
    }
    if (!closing || closed || deaf || terminal) return;
    closed = true;
    await closeInput();
  };

  const kick = (): void => {
    sending ??= send()
      .catch((error: unknown) => {
        if (!isProcessGone(error)) failure = error;
        giveUp();
      })
      .finally(() => {
        sending = undefined;
        wake();
        // What came after the last look at it.
        if (waiting.length > 0 || (closing && !closed && !deaf && !terminal)) kick();
      });
  };

  const take = async (bytes: Uint8Array): Promise<void> => {
    if (deaf || closing || bytes.length === 0) return;
    waiting.push(bytes);
    waitingBytes += bytes.length;
    kick();
    while ((waitingBytes > AHEAD_MAX_BYTES || waiting.length > AHEAD_MAX_PIECES) && !signal.aborted) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    if (failure !== undefined) throw failure;
  };

  const close = async (): Promise<void> => {
    if (closing) return;
    if (terminal) await take(CTRL_D);
    closing = true;
    kick();
  };

  const apply = async (input: ExecInput): Promise<void> => {
    switch (input.kind) {
      case 'stdin':
        return take(input.bytes);
      case 'closeStdin':
        return close();
      case 'resize':
        return given(envd.resizeTerminal(pid, input.size, signal));
      case 'signal':
        return given(signalProcess(envd, pid, input.number, signal));
    }
  };

  return {
    pump: async (inputs) => {
      for await (const input of inputs) {
        if (signal.aborted) return;
        await apply(input);
      }
      // A terminal stays open when its caller has nothing more to say: only an explicit end is Ctrl+D.
      if (!terminal) await close();
      while (sending !== undefined) await sending;
      if (failure !== undefined) throw failure;
    },
  };
}

/** Up to SLICE_BYTES from the front, small pieces joined. */
function takeSlice(waiting: Uint8Array[]): Uint8Array {
  const parts: Uint8Array[] = [];
  let sizeBytes = 0;
  while (sizeBytes < SLICE_BYTES) {
    const first = waiting.shift();
    if (first === undefined) break;
    const room = SLICE_BYTES - sizeBytes;
    if (first.length > room) waiting.unshift(first.subarray(room));
    parts.push(first.subarray(0, room));
    sizeBytes += Math.min(first.length, room);
  }
  const [only] = parts;
  return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts);
}

/** envd itself knows SIGTERM and SIGKILL; the shell in the guest knows them all. */
async function signalProcess(
  envd: EnvdClient,
  pid: number,
  number: number,
  signal: AbortSignal,
): Promise<void> {
  if (!Number.isInteger(number) || number < 1 || number > 64) {
    throw new WrennError('invalid_argument', `${number} is not a signal's number.`, { field: 'signal' });
  }
  if (number === SIGTERM || number === SIGKILL) return envd.sendSignal(pid, number, signal);
  const command = ['/bin/sh', '-c', 'kill -"$1" -"$2"', 'sh', String(number), String(pid)];
  const shell = { command, envs: {}, cwd: '/', user: 'root', terminal: undefined, stdin: false };
  for await (const _event of envd.startProcess(shell, signal));
}

function isProcessGone(error: unknown): boolean {
  return error instanceof WrennError && error.code === 'process_not_found';
}
