/** One run of the gateway, as the agent sees it: it is asked, and answers or has ended. */
import { spawn } from 'node:child_process';
import net from 'node:net';
import { killProcess, plainEnvironment, processesOfUser, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { withinMs } from '../../signals/signals.ts';
import { soon } from '../../signals/soon.ts';
import { fromGatewaySchema, type ToGateway } from './messages.ts';

export interface GatewayLink {
  /** One that does not answer in time is ended: it is of no use to anybody. */
  call(message: Question, handle?: net.Server, timeoutMs?: number): Promise<void>;
  /** Settles when no process of it is left. */
  readonly ended: Promise<void>;
  /** Tells it to end, and sees to it. Idempotent. */
  end(): Promise<void>;
}

export type Question = ToGateway extends infer M ? (M extends ToGateway ? Omit<M, 'id'> : never) : never;

export interface LinkOptions {
  /** Starts the keeper (keeper.ts). */
  readonly command: readonly string[];
  /** Whose processes are gateways and nothing else. */
  readonly uid: number;
  readonly onEnd: (why: WrennError) => void;
  readonly onWarning: (message: string, cause: unknown) => void;
}

const ANSWER_MS = 10_000;
const STOP_MS = 2000;
const LAST_WORDS_MS = 500;
const POLL_MS = 20;
const COMPLAINT_MAX_CHARS = 2000;
/** The keeper needs a few; what would fill its memory ends it. */
const KEEPER_HEAP_MIB = 64;

export function openLink({
  command: [program = '', ...args],
  uid,
  onEnd,
  onWarning,
}: LinkOptions): GatewayLink {
  const child = spawn(program, args, {
    cwd: '/',
    // A terminal's Ctrl+C is for the agent.
    detached: true,
    env: { ...plainEnvironment(), NODE_OPTIONS: `--max-old-space-size=${KEEPER_HEAP_MIB}` },
    shell: false,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  const calls = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  let [complaint, lastId, isOver] = ['', 0, false];
  child.stderr?.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString('utf8')).slice(-COMPLAINT_MAX_CHARS);
  });
  child.on('message', (received) => {
    const { done, problem } = fromGatewaySchema.parse(received);
    const call = calls.get(done);
    calls.delete(done);
    if (problem === undefined) call?.resolve();
    else call?.reject(failed(`The egress gateway failed: ${problem}`));
  });
  const lastWords = new Promise((resolve) => child.stderr?.once('close', resolve));
  const exited = new Promise<unknown>((resolve) => {
    child.once('error', resolve);
    // Not `close`, which does not come to whoever has closed the channel himself.
    child.once('exit', () => resolve(undefined));
  });
  const ended = exited.then(async (cause) => {
    isOver = true;
    await soon(lastWords, LAST_WORDS_MS);
    for (const { reject } of calls.values()) reject(failed('The egress gateway ended.', cause));
    calls.clear();
    // A gateway without its keeper ends by itself, unless it hangs or is somebody else's by now.
    await killUsersProcesses(uid).catch((error: unknown) =>
      onWarning('an egress gateway that has ended is still there', error),
    );
    onEnd(failed(`The egress gateway ended: ${complaint || 'without a word'}`, cause));
  });
  // Nothing that keeps the agent from ending.
  child.unref();
  child.channel?.unref();
  if (child.stderr instanceof net.Socket) child.stderr.unref();

  const end = async (): Promise<void> => {
    if (child.connected) child.disconnect();
    await withinMs(STOP_MS, 'The end of the egress gateway', ended).catch(() => {
      child.kill('SIGKILL');
      return ended;
    });
  };

  return {
    ended,
    end,
    call: (message, handle, timeoutMs = ANSWER_MS) => {
      lastId += 1;
      const id = lastId;
      const answered = new Promise<void>((resolve, reject) => {
        if (isOver || !child.connected) return reject(failed('The egress gateway ended.'));
        calls.set(id, { resolve, reject });
        child.send({ ...message, id }, handle, (error) => {
          if (error !== null) reject(failed('The egress gateway is not to be reached.', error));
        });
      });
      return withinMs(timeoutMs, 'The answer of the egress gateway', answered).catch((error: unknown) => {
        calls.delete(id);
        if (error instanceof WrennError && error.code === 'deadline_exceeded') void end();
        throw error;
      });
    },
  };
}

export async function killUsersProcesses(uid: number): Promise<void> {
  for (const identity of await processesOfUser(uid)) {
    await killProcess(identity, 'SIGKILL');
    await withinMs(
      STOP_MS,
      'The end of an earlier egress gateway',
      waitUntilGone(identity, { pollMs: POLL_MS }),
    );
  }
}

export function failed(message: string, cause?: unknown): WrennError {
  return new WrennError('internal', message, cause === undefined ? {} : { cause });
}
