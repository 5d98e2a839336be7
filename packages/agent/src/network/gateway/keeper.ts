/**
 * Stands between the agent and the gateway. Whoever breaks into the gateway speaks on the channel that Node opens
 * between a process and its child, whose parent trusts what it reads: a line that is no JSON, or an acknowledgement
 * of nothing, ends the parent, and a line without end fills its memory. So the parent is this process, which has
 * nothing to lose; the agent hears of one answer to each question, and of nothing else.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import net from 'node:net';
import { plainEnvironment } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { fromGatewaySchema, toGatewaySchema } from './messages.ts';

const COMPLAINT_MAX_CHARS = 2000;

/** Runs until the agent or the gateway is gone, and takes the gateway with it. `program` is this one, in any role. */
export function runEgressKeeper([runtime, program = ''] = process.argv): void {
  if (process.send === undefined || runtime === undefined) {
    throw new WrennError('invalid_argument', 'The keeper of the egress gateway is started by the agent.');
  }
  const gateway = spawn(runtime, [program, 'egress-gateway'], {
    cwd: '/',
    env: plainEnvironment(),
    shell: false,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  const complaint = lastWords(gateway);
  /** Questions that have no answer yet. */
  const asked = new Set<number>();
  let why: string | undefined;
  const end = (because: string): void => {
    why ??= because;
    gateway.kill('SIGKILL');
  };

  process.on('message', (received: unknown, handle: unknown) => {
    const message = toGatewaySchema.parse(received);
    asked.add(message.id);
    const server = handle instanceof net.Server ? handle : undefined;
    // Whoever comes before the gateway has it comes too early.
    server?.on('connection', (socket) => socket.destroy()).on('error', () => {});
    gateway.send(message, server, (error) => {
      server?.close();
      if (error !== null) end('it is not to be reached');
    });
  });
  gateway.on('message', (received: unknown, handle: unknown) => {
    const answer = fromGatewaySchema.safeParse(received);
    if (handle !== undefined || !answer.success || !asked.delete(answer.data.done)) {
      return end('it said what nobody had asked for');
    }
    process.send?.(answer.data, undefined, undefined, () => {});
  });
  gateway.once('error', (error) => leave(error.message));
  gateway.once('exit', () => leave(why ?? (complaint() || 'without a word')));
  process.on('disconnect', () => end('it was told to end'));
}

/** What it has written last, however much that was. */
function lastWords(child: ChildProcess): () => string {
  let words = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString('utf8')).slice(-COMPLAINT_MAX_CHARS);
  });
  return () => words;
}

/** The agent reads it, whatever is in it, as text of at most so many characters. */
function leave(why: string): void {
  process.stderr.on('error', () => {});
  process.stderr.write(why.slice(-COMPLAINT_MAX_CHARS), () => process.exit(1));
}
