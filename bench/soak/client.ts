/**
 * Clients in one process, each with the unmodified SDK: commands, files, a terminal and a watch at once, and every
 * answer is looked at. Told by the parent what to do; tells how much it did and what went wrong.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import type { ClientOrder, ClientReport } from './messages.ts';

const MAX_ERRORS = 50;
const FILE_BYTES = 32 * 1024;

let stopping = false;
const done: Record<string, number> = {};
const errors: string[] = [];

function fail(what: string, error: unknown): void {
  if (stopping || errors.length >= MAX_ERRORS) return;
  errors.push(`${what}: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
}

function count(what: string): void {
  done[what] = (done[what] ?? 0) + 1;
}

async function within<T>(what: string, ms: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Until it is told to stop; a loop that fails goes on, so that one failure is not the end of the load. */
async function repeat(what: string, ready: () => void, work: (n: number) => Promise<void>): Promise<void> {
  for (let n = 0; !stopping; n += 1) {
    try {
      await work(n);
      if (n === 0) ready();
      if (!stopping) count(what);
    } catch (error) {
      fail(what, error);
      await sleep(1000);
    }
  }
}

async function client(order: ClientOrder, name: string, sandboxId: string): Promise<void> {
  const options = {
    apiKey: order.apiKey,
    apiUrl: order.url,
    sandboxUrl: order.url,
    requestTimeoutMs: order.patienceMs,
  };
  const sandbox = await Sandbox.connect(sandboxId, { ...options, timeoutMs: 3_600_000 });
  const dir = `/home/user/${name}`;
  await sandbox.files.makeDir(dir);

  let seen = (_file: string): void => {};
  await sandbox.files.watchDir(dir, (event) => seen(event.name), {
    timeoutMs: 0,
    onExit: (error) => fail('watch ended', error ?? 'without an error'),
  });
  let heard = '';
  let listen = (): void => {};
  const terminal = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    timeoutMs: 0,
    onData: (data) => {
      heard = (heard + Buffer.from(data).toString()).slice(-4096);
      listen();
    },
  });
  terminal.wait().catch((error: unknown) => fail('terminal ended', error));

  const started: Promise<void>[] = [];
  const loops = [
    [
      'exec',
      async (n: number) => {
        const { stdout } = await sandbox.commands.run(`echo ${name}-$((${n} + 1))`, {
          timeoutMs: order.patienceMs,
        });
        if (stdout !== `${name}-${n + 1}\n`) throw new Error(`the command said ${JSON.stringify(stdout)}`);
      },
    ],
    [
      'files and watch',
      async (n: number) => {
        const file = `f${n % 8}`;
        const told = new Promise<void>((resolve) => {
          seen = (one) => {
            if (one === file) resolve();
          };
        });
        const content = `${name} ${n} `.repeat(FILE_BYTES / 16);
        await sandbox.files.write(`${dir}/${file}`, content);
        if ((await sandbox.files.read(`${dir}/${file}`)) !== content)
          throw new Error('another content came back');
        await within('the event', order.patienceMs, told);
      },
    ],
    [
      'terminal',
      async (n: number) => {
        const word = `${n}T${name.length * 7}`;
        const told = new Promise<void>((resolve) => {
          listen = () => {
            // What is typed is echoed with the quotes; what is said is not.
            if (heard.includes(`${word}E`)) resolve();
          };
        });
        await sandbox.pty.sendInput(terminal.pid, Buffer.from(`echo ${word}'E'\n`));
        await within('the terminal', order.patienceMs, told);
      },
    ],
  ] as const;
  for (const [what, work] of loops) {
    started.push(new Promise((resolve) => void repeat(what, resolve, work)));
  }
  await Promise.all(started);
}

process.on('message', (message: ClientOrder | 'stop') => {
  if (message === 'stop') {
    stopping = true;
    const report: ClientReport = { kind: 'report', done, errors };
    process.send?.(report);
    return;
  }
  Promise.all(message.clients.map(({ name, sandboxId }) => client(message, name, sandboxId)))
    .catch((error: unknown) => fail('a client could not begin', error))
    .finally(() => process.send?.({ kind: 'ready' } satisfies ClientReport));
});
process.on('disconnect', () => process.exit());
