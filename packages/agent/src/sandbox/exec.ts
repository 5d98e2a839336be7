/**
 * One command in a sandbox: its output at the caller's pace, its input at the guest's.
 *
 * A caller that leaves before the end takes the command with it: SIGKILL, to the process and its group. The
 * end of the caller's input closes the command's stdin. When the agent leaves, the command goes on.
 */
import { WrennError } from '@wrenn/protocol';
import type { ProcessEvent } from '@wrenn/protocol/process';
import type { TerminalSize } from '../envd-client/client.ts';
import { joinSignals, throwIfAborted, withinMs } from '../signals/signals.ts';
import { createDeadline } from './deadline.ts';
import { createInputSender } from './exec-input.ts';
import { exitCodeOf } from './exit-code.ts';
import type { GuestLease } from './guest.ts';

export interface ExecRequest {
  /** The program and its arguments. */
  readonly command: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd?: string | undefined;
  readonly user?: string | undefined;
  readonly terminal?: TerminalSize | undefined;
  readonly stdin: boolean;
  /** SIGKILL after so long, and `deadline_exceeded`. */
  readonly timeoutMs?: number | undefined;
}

export type ExecInput =
  | { readonly kind: 'stdin'; readonly bytes: Uint8Array }
  | { readonly kind: 'closeStdin' }
  | { readonly kind: 'resize'; readonly size: TerminalSize }
  | { readonly kind: 'signal'; readonly number: number };

export interface ExecExit {
  /** The exit code, or 128 plus the signal's number. */
  readonly exitCode: number;
  readonly status: string;
}

export type ExecOutput =
  | { readonly kind: 'started'; readonly pid: number }
  | { readonly kind: 'stdout' | 'stderr' | 'pty'; readonly bytes: Uint8Array }
  | ({ readonly kind: 'exited' } & ExecExit);

export interface ExecTimeouts {
  readonly guestRequestMs: number;
  readonly guestStallMs: number;
}

const SIGKILL = 9;
/** From SIGKILL to the end of the process's stream. */
const DEATH_MS = 5_000;
const END_OF_STREAM_MS = 250;
/** Of an output that is kept. */
const PIECES_MAX = 1024;

const now = (): number => performance.now();

/** Takes the lease over and releases it. Ends by `exited`, or throws. */
export async function* exec(
  lease: GuestLease,
  request: ExecRequest,
  timeouts: ExecTimeouts,
  caller: AbortSignal,
  inputs?: AsyncIterable<ExecInput>,
): AsyncGenerator<ExecOutput, void, undefined> {
  const { envd } = lease;
  /** Ends the stream from the guest, with the error to tell. */
  const stop = new AbortController();
  const streamSignal = joinSignals(lease.signal, stop.signal);
  const { signal } = streamSignal;
  const events = envd
    .startProcess({ cwd: undefined, user: undefined, terminal: undefined, ...request }, signal)
    [Symbol.asyncIterator]();
  const started = firstEvent(events, lease, timeouts.guestRequestMs);
  let ended = false;
  let timedOut = false;
  let finished: Promise<void> | undefined;

  const kill = async (): Promise<void> => {
    const pid = await withinMs(timeouts.guestRequestMs, 'Starting the command', started);
    // Also after the stream from the guest was broken off.
    await envd.sendSignal(pid, SIGKILL, lease.signal);
  };

  /** Once, and whether or not anybody still reads: a caller that is gone never asks for the next output. */
  const finish = (): Promise<void> => {
    finished ??= (async () => {
      caller.removeEventListener('abort', onCallerGone);
      timer.set(undefined);
      try {
        // After its last event the stream ends by itself, and its connection serves the next command.
        if (ended) await withinMs(END_OF_STREAM_MS, 'Ending the stream', events.next());
        else if (!lease.signal.aborted) await withinMs(DEATH_MS, 'Killing the command', kill());
      } catch {
        // It never started, has ended meanwhile, or its guest does not answer: then nothing is left to do.
      } finally {
        stop.abort(new WrennError('cancelled', 'The command was left.'));
        streamSignal.release();
        lease.release();
      }
    })();
    return finished;
  };
  const onCallerGone = (): void => void finish();
  const timer = createDeadline(() => {
    timedOut = true;
    kill()
      .then(() => new Promise((resolve) => setTimeout(resolve, DEATH_MS)))
      .catch(() => {})
      .finally(() => stop.abort(tooLong(request.timeoutMs)));
    // Whatever becomes of the host's clock meanwhile.
  }, now);

  // Awaited below; until then nobody need be told that it has failed.
  started.catch(() => {});

  try {
    throwIfAborted(caller);
    caller.addEventListener('abort', onCallerGone, { once: true });
    if (request.timeoutMs !== undefined) timer.set(now() + request.timeoutMs);

    const pid = await started;
    yield { kind: 'started', pid };

    if (inputs !== undefined) {
      const sender = createInputSender({
        envd,
        pid,
        terminal: request.terminal !== undefined,
        mayBeSilent: () => lease.mayBeSilent(timeouts.guestRequestMs),
        signal,
      });
      sender.pump(inputs).catch((error: unknown) => {
        if (!ended && !caller.aborted) stop.abort(WrennError.from(error));
      });
    }
    for (;;) {
      const event = await nextEvent(events, lease, timeouts.guestStallMs);
      const output = toOutput(event);
      if (output?.kind === 'exited') {
        ended = true;
        if (timedOut) throw tooLong(request.timeoutMs);
      }
      if (output !== undefined) yield output;
      if (ended) return;
    }
  } catch (error) {
    throwIfAborted(caller);
    if (!lease.signal.aborted) throwIfAborted(stop.signal);
    throw error;
  } finally {
    await finish();
  }
}

/** Runs a command to its end and keeps its output, up to `maxBytes` of each. */
export async function collect(
  outputs: AsyncIterable<ExecOutput>,
  maxBytes = 1024 * 1024,
): Promise<{ readonly stdout: string; readonly stderr: string; readonly exit: ExecExit }> {
  const kept = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  const sizes = { stdout: 0, stderr: 0 };
  let exit: ExecExit | undefined;
  for await (const output of outputs) {
    if (output.kind === 'exited') exit = output;
    if (output.kind !== 'stdout' && output.kind !== 'stderr') continue;
    sizes[output.kind] += output.bytes.length;
    if (sizes[output.kind] > maxBytes) continue;
    const pieces = kept[output.kind];
    pieces.push(output.bytes);
    // However small the pieces are into which a guest cuts it.
    if (pieces.length === PIECES_MAX) pieces.splice(0, PIECES_MAX, Buffer.concat(pieces));
  }
  if (exit === undefined) throw new WrennError('guest_protocol', 'The command did not tell how it ended.');
  const text = (chunks: Uint8Array[]): string => Buffer.concat(chunks).toString('utf8');
  return { stdout: text(kept.stdout), stderr: text(kept.stderr), exit };
}

async function firstEvent(
  events: AsyncIterator<ProcessEvent>,
  lease: GuestLease,
  timeoutMs: number,
): Promise<number> {
  const first = await nextWhileSilent(events, lease, timeoutMs);
  if (first === undefined) {
    throw new WrennError('deadline_exceeded', `Starting the command took longer than ${timeoutMs} ms.`);
  }
  const event = first.done === true ? undefined : first.value.event;
  if (event?.case === 'start') return event.value.pid;
  throw new WrennError('guest_protocol', 'The guest agent did not say that it has started the command.');
}

/** While the guest runs, it says something now and then, if only that the process is still there. */
async function nextEvent(
  events: AsyncIterator<ProcessEvent>,
  lease: GuestLease,
  stallMs: number,
): Promise<ProcessEvent> {
  const event = await nextWhileSilent(events, lease, stallMs);
  if (event === undefined) {
    throw new WrennError('guest_unreachable', `The guest has said nothing for ${stallMs} ms.`, {
      hint: 'The sandbox may be overloaded or hang; its logs may say more.',
    });
  }
  if (event.done !== true) return event.value;
  throw new WrennError('guest_protocol', 'The guest agent did not say how the command ended.');
}

/** Undefined where the guest said nothing for so long, and did not stand still. */
async function nextWhileSilent(
  events: AsyncIterator<ProcessEvent>,
  lease: GuestLease,
  silentMs: number,
): Promise<IteratorResult<ProcessEvent> | undefined> {
  const next = events.next();
  for (;;) {
    const event = await unlessSilent(next, silentMs);
    if (event !== undefined || !lease.mayBeSilent(silentMs)) return event;
  }
}

/** Undefined if nothing came. Told apart from every error: a guest can end its stream with any. */
async function unlessSilent<T extends object>(next: Promise<T>, stallMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, stallMs, undefined);
  });
  try {
    return await Promise.race([next, silence]);
  } finally {
    clearTimeout(timer);
  }
}

function toOutput({ event }: ProcessEvent): ExecOutput | undefined {
  switch (event.case) {
    case 'data': {
      const { output } = event.value;
      return output.case === undefined ? undefined : { kind: output.case, bytes: output.value };
    }
    case 'end':
      return { kind: 'exited', exitCode: exitCodeOf(event.value), status: event.value.status.slice(0, 100) };
    default:
      return undefined;
  }
}

function tooLong(timeoutMs: number | undefined): WrennError {
  return new WrennError('deadline_exceeded', `The command was killed: it ran longer than ${timeoutMs} ms.`);
}
