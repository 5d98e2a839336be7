/**
 * QEMU's machine protocol on its unix socket: JSON, one message a line. QEMU may have been taken over by its
 * guest, so nothing it says is trusted: a line that is too long or not of the protocol ends the connection.
 */
import type { Socket } from 'node:net';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import { printable } from '../printable.ts';

/** The registers of 64 vCPUs take some 300 KiB. */
export const LINE_LIMIT_BYTES = 1024 * 1024;
const MAX_PENDING = 64;
/** A healthy QEMU says a few lines a second, and limits its own events. Parsing more would be all the agent does. */
export const MAX_LINES_PER_SECOND = 1_000;
const MAX_BYTES_PER_SECOND = 16 * LINE_LIMIT_BYTES;

export interface QmpEvent {
  readonly name: string;
  readonly data: unknown;
}

export interface CommandOptions {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

export interface QmpClient {
  /**
   * The command's `return`. Throws `vmm_api_error` when QEMU refuses or the connection is lost,
   * `deadline_exceeded`, or `cancelled`; in the last two cases QEMU may still carry it out.
   */
  execute(
    command: string,
    args: Readonly<Record<string, unknown>>,
    options: CommandOptions,
  ): Promise<unknown>;
  /** Whether commands can still be answered. */
  isOpen(): boolean;
  /** Resolves when the connection is gone, for whatever reason; never rejects. */
  readonly closed: Promise<void>;
  /** Idempotent. */
  close(): void;
}

const greetingSchema = z.object({ QMP: z.object({ version: z.unknown() }) });
const answerSchema = z.object({
  id: z.number(),
  return: z.unknown().optional(),
  error: z.object({ class: z.string(), desc: z.string() }).optional(),
});
const eventSchema = z.object({ event: z.string(), data: z.unknown().optional() });

interface Pending {
  readonly command: string;
  settle(outcome: { readonly value: unknown } | { readonly error: WrennError }): void;
}

/** Takes over a connected socket, reads the greeting and leaves capabilities negotiation mode. */
export async function openQmp(
  socket: Socket,
  options: CommandOptions & { readonly onEvent: (event: QmpEvent) => void },
): Promise<QmpClient> {
  const pending = new Map<number, Pending>();
  let lastId = 0;
  let failure: WrennError | undefined;
  let onGreeting: () => void = () => {};
  const greeted = new Promise<void>((resolve) => {
    onGreeting = resolve;
  });

  const end = (error: WrennError): void => {
    failure ??= error;
    for (const { settle } of pending.values()) settle({ error: failure });
    socket.destroy();
  };
  const onLine = (line: string): void => {
    const message = parseJson(line);
    const answer = answerSchema.safeParse(message);
    if (answer.success) {
      const { id, error, return: value } = answer.data;
      const waiting = pending.get(id);
      // Nobody waits any more: the command had run into its deadline.
      if (waiting === undefined) return;
      waiting.settle(error === undefined ? { value } : { error: refusal(waiting.command, error) });
      return;
    }
    const event = eventSchema.safeParse(message);
    if (event.success) options.onEvent({ name: event.data.event, data: event.data.data });
    else if (greetingSchema.safeParse(message).success) onGreeting();
    else end(new WrennError('vmm_api_error', `QEMU said ${printable(line, 100)}, which is not QMP.`));
  };

  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      end(new WrennError('vmm_api_error', 'The connection to QEMU was lost.', { hint: LOST_HINT }));
      resolve();
    });
  });
  // The reason is worth nothing: 'close' follows.
  socket.on('error', () => {});
  const allowance = createAllowance(() => end(new WrennError('vmm_api_error', 'QEMU talks without end.')));
  const read = lineReader(
    (line) => {
      if (failure === undefined && allowance.take('lines', 1)) onLine(line);
    },
    () => end(new WrennError('vmm_api_error', TOO_LONG_MESSAGE)),
  );
  socket.on('data', (chunk) => {
    if (allowance.take('bytes', chunk.length)) read(chunk);
  });

  const execute: QmpClient['execute'] = (command, args, { signal, timeoutMs }) =>
    new Promise((resolve, reject) => {
      if (failure !== undefined) throw failure;
      if (signal.aborted) throw cancelled(command, signal.reason);
      if (pending.size >= MAX_PENDING) {
        throw new WrennError('vmm_api_error', `QEMU has ${MAX_PENDING} commands to answer yet.`);
      }
      lastId += 1;
      const id = lastId;
      const settle: Pending['settle'] = (outcome) => {
        pending.delete(id);
        clearTimeout(deadline);
        signal.removeEventListener('abort', onAbort);
        if ('error' in outcome) reject(outcome.error);
        else resolve(outcome.value);
      };
      const onAbort = (): void => settle({ error: cancelled(command, signal.reason) });
      const deadline = setTimeout(() => settle({ error: late(command, timeoutMs) }), timeoutMs);
      signal.addEventListener('abort', onAbort, { once: true });
      pending.set(id, { command, settle });
      socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });

  const client: QmpClient = {
    execute,
    isOpen: () => failure === undefined,
    closed,
    close: () => end(new WrennError('cancelled', 'The connection to QEMU was closed.')),
  };
  try {
    await withDeadline(Promise.race([greeted, closed]), options);
    await execute('qmp_capabilities', {}, options);
    return client;
  } catch (error) {
    client.close();
    throw error;
  }
}

const LOST_HINT = 'It has ended, or its guest confused it; destroy the sandbox if it does not end by itself.';
const TOO_LONG_MESSAGE = `QEMU said a line of more than ${LINE_LIMIT_BYTES} bytes.`;

/** Counts what came within a second; refuses, and calls `onExceeded` once, when it is too much. */
function createAllowance(onExceeded: () => void): { take(what: 'lines' | 'bytes', count: number): boolean } {
  const limits = { lines: MAX_LINES_PER_SECOND, bytes: MAX_BYTES_PER_SECOND };
  const left = { ...limits };
  let since = performance.now();
  let exceeded = false;
  return {
    take(what, count) {
      if (performance.now() - since > 1_000) {
        since = performance.now();
        Object.assign(left, limits);
      }
      left[what] -= count;
      if (left[what] < 0 && !exceeded) {
        exceeded = true;
        onExceeded();
      }
      return !exceeded;
    },
  };
}

/** Cuts a stream into lines. After a line over the limit it reads nothing more. */
export function lineReader(onLine: (line: string) => void, onTooLong: () => void): (chunk: Buffer) => void {
  let parts: Buffer[] = [];
  let sizeBytes = 0;
  let stopped = false;
  return (chunk) => {
    let rest = chunk;
    while (!stopped) {
      const newline = rest.indexOf(0x0a);
      const part = newline === -1 ? rest : rest.subarray(0, newline);
      sizeBytes += part.length;
      if (sizeBytes > LINE_LIMIT_BYTES) {
        stopped = true;
        parts = [];
        onTooLong();
        return;
      }
      parts.push(part);
      if (newline === -1) return;
      const line = Buffer.concat(parts).toString('utf8').trim();
      parts = [];
      sizeBytes = 0;
      if (line !== '') onLine(line);
      rest = rest.subarray(newline + 1);
    }
  };
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function withDeadline(promise: Promise<void>, { signal, timeoutMs }: CommandOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => finish(cancelled('the greeting', signal.reason));
    const deadline = setTimeout(() => finish(late('the greeting', timeoutMs)), timeoutMs);
    const finish = (error?: WrennError): void => {
      clearTimeout(deadline);
      signal.removeEventListener('abort', onAbort);
      if (error === undefined) resolve();
      else reject(error);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    void promise.then(() => finish());
  });
}

function refusal(command: string, error: { class: string; desc: string }): WrennError {
  return new WrennError('vmm_api_error', `QEMU refused ${command}: ${printable(error.desc)}`);
}

function late(command: string, timeoutMs: number): WrennError {
  return new WrennError('deadline_exceeded', `QEMU did not answer ${command} within ${timeoutMs} ms.`, {
    hint: 'The host may be overloaded, or the VMM hangs; destroy the sandbox if it stays so.',
  });
}

function cancelled(command: string, cause: unknown): WrennError {
  return new WrennError('cancelled', `QEMU was not waited for: ${command} was cancelled.`, { cause });
}
