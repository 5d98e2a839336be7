/** One command in a sandbox, wired to this program's own streams: input, output, signals, terminal, exit code. */
import { constants } from 'node:os';
import { create } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { AgentClient } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import {
  type ExecRequest,
  ExecRequest_CloseStdinSchema,
  ExecRequest_SignalSchema,
  type ExecRequest_Start,
  ExecRequest_StartSchema,
  ExecRequestSchema,
  type TerminalSize,
  TerminalSizeSchema,
} from '@wrenn/protocol/agent';
import type { Interrupts } from './interrupts.ts';
import { writeInTurn } from './output.ts';

export interface ExecSession {
  readonly sandboxId: string;
  readonly command: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  /** Empty means the user's home. */
  readonly cwd: string;
  /** Empty means the template's default user. */
  readonly user: string;
  readonly timeoutMs: number | undefined;
  /** Whether this program's standard input is the command's; else it has none, and this program's is not touched. */
  readonly stdin: boolean;
  /** Whether this program's terminal becomes the command's. */
  readonly terminal: boolean;
  readonly interrupts: Interrupts;
}

type Message = ExecRequest['message'];

/** Chunks of stdin that wait to be sent; reading stops at this many. */
const MAX_WAITING = 8;

/** Resolves with the command's exit code. */
export async function runExecSession(
  client: Pick<AgentClient, 'guest'>,
  session: ExecSession,
): Promise<number> {
  const { stdin, terminal, interrupts } = session;
  const input = createInput();
  input.push({ case: 'start', value: startMessage(session) });

  const onResize = () => input.push({ case: 'resize', value: terminalSize() });
  if (terminal) process.stdout.on('resize', onResize);
  interrupts.onFirst = () =>
    input.push({
      case: 'signal',
      value: create(ExecRequest_SignalSchema, { number: constants.signals.SIGINT }),
    });
  const raw = stdin && terminal && process.stdin.isTTY;
  if (raw) process.stdin.setRawMode(true);
  const feeding = stdin ? feedStdin(input, interrupts.signal) : undefined;
  try {
    for await (const { message } of client.guest.exec(input.messages(), { signal: interrupts.signal })) {
      // Also where the command has ended meanwhile: what was written last may be lost.
      interrupts.signal.throwIfAborted();
      if (message.case === 'stdout' || message.case === 'pty')
        await writeInTurn(process.stdout, message.value);
      else if (message.case === 'stderr') await writeInTurn(process.stderr, message.value);
      else if (message.case === 'exited') return message.value.exitCode;
    }
    throw new WrennError('guest_unreachable', 'The connection ended before the command did.');
  } catch (error) {
    throw interrupts.signal.aborted ? interrupts.signal.reason : error;
  } finally {
    feeding?.stop();
    input.end();
    if (raw) process.stdin.setRawMode(false);
    process.stdout.off('resize', onResize);
  }
}

function terminalSize(): TerminalSize {
  return create(TerminalSizeSchema, { cols: process.stdout.columns || 80, rows: process.stdout.rows || 24 });
}

function startMessage(session: ExecSession): ExecRequest_Start {
  const { sandboxId, command, envs, cwd, user } = session;
  const start = create(ExecRequest_StartSchema, {
    sandboxId,
    command: [...command],
    envs: { ...envs },
    cwd,
    user,
    stdin: session.stdin,
  });
  if (session.terminal) start.terminal = terminalSize();
  if (session.timeoutMs !== undefined) start.timeout = durationFromMs(session.timeoutMs);
  return start;
}

interface Input {
  push(message: Message): void;
  /** Resolves when fewer than MAX_WAITING messages wait. */
  readonly room: () => Promise<void>;
  end(): void;
  messages(): AsyncIterable<ExecRequest>;
}

function createInput(): Input {
  const waiting: Message[] = [];
  let ended = false;
  let wakeReader = () => {};
  let wakeWriter = () => {};
  return {
    push(message) {
      waiting.push(message);
      wakeReader();
    },
    async room() {
      while (waiting.length >= MAX_WAITING && !ended) {
        await new Promise<void>((resolve) => {
          wakeWriter = resolve;
        });
      }
    },
    end() {
      ended = true;
      wakeReader();
      wakeWriter();
    },
    async *messages() {
      for (;;) {
        const message = waiting.shift();
        if (message !== undefined) {
          wakeWriter();
          yield create(ExecRequestSchema, { message });
        } else if (ended) return;
        else {
          await new Promise<void>((resolve) => {
            wakeReader = resolve;
          });
        }
      }
    },
  };
}

/** Passes stdin on as fast as it is taken, then its end. */
function feedStdin(input: Input, signal: AbortSignal): { stop(): void } {
  const { stdin } = process;
  const feed = async (): Promise<void> => {
    for await (const chunk of stdin) {
      await input.room();
      if (signal.aborted) return;
      input.push({ case: 'stdin', value: chunk as Buffer });
    }
    input.push({ case: 'closeStdin', value: create(ExecRequest_CloseStdinSchema) });
  };
  // A stdin that cannot be read (closed by the parent) is an empty one.
  feed().catch(() => input.push({ case: 'closeStdin', value: create(ExecRequest_CloseStdinSchema) }));
  return { stop: () => void stdin.destroy() };
}
