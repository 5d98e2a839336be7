/** What one client does: commands, files, a watch and a terminal, all at once, and every answer is looked at. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import type { ClientOrder, Kind } from './messages.ts';

const FILE_BYTES = 32 * 1024;
const FILES = 8;
const HEARD_MAX_CHARS = 4096;

export interface Diary {
  /** Before the first of each kind is done, and what comes before them all. */
  waits(what: string): void;
  waitsNoMore(what: string): void;
  did(kind: Kind, tookMs: number): void;
  failed(what: string, error: unknown): void;
}

/** Returns when it has done each thing once; goes on until the signal. */
export async function beginClient(
  order: ClientOrder,
  { name, sandboxId, beginAfterMs }: ClientOrder['clients'][number],
  diary: Diary,
  signal: AbortSignal,
): Promise<void> {
  const step = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    diary.waits(what);
    try {
      return await within(what, order.patienceMs, work());
    } finally {
      diary.waitsNoMore(what);
    }
  };
  const timed = async <T>(kind: Kind, work: () => Promise<T>): Promise<T> => {
    const beganAt = performance.now();
    const result = await within(kind, order.patienceMs, work());
    diary.did(kind, performance.now() - beganAt);
    return result;
  };

  await step('its turn', () => sleep(beginAfterMs, undefined, { signal }));
  const sandbox = await step('the connection', () =>
    Sandbox.connect(sandboxId, {
      apiKey: order.apiKey,
      apiUrl: order.url,
      sandboxUrl: order.url,
      requestTimeoutMs: order.patienceMs,
      timeoutMs: 3_600_000,
    }),
  );
  const dir = `/home/user/${name}`;
  await step('its directory', () => sandbox.files.makeDir(dir));

  let seen = (_file: string): void => {};
  await step('the watch', () =>
    sandbox.files.watchDir(dir, (event) => seen(event.name), {
      timeoutMs: 0,
      onExit: (error) => diary.failed('the watch ended', error ?? 'without an error'),
    }),
  );
  let heard = '';
  let listen = (): void => {};
  const terminal = await step('the terminal', () =>
    sandbox.pty.create({
      cols: 80,
      rows: 24,
      timeoutMs: 0,
      onData: (data) => {
        heard = (heard + Buffer.from(data).toString()).slice(-HEARD_MAX_CHARS);
        listen();
      },
    }),
  );
  terminal.wait().catch((error: unknown) => diary.failed('the terminal ended', error));

  const run = async (n: number): Promise<void> => {
    const { stdout } = await timed('exec', () =>
      sandbox.commands.run(`echo ${name}-$((${n} + 1))`, { timeoutMs: order.patienceMs }),
    );
    if (stdout !== `${name}-${n + 1}\n`) throw new Error(`the command said ${JSON.stringify(stdout)}`);
  };
  const write = async (n: number): Promise<void> => {
    const file = `f${n % FILES}`;
    const content = `${name} ${n} `.repeat(FILE_BYTES / 16);
    const told = new Promise<void>((resolve) => {
      seen = (one) => {
        if (one === file) resolve();
      };
    });
    const watched = timed('watch', () => told);
    watched.catch(() => {});
    await timed('files', async () => {
      await sandbox.files.write(`${dir}/${file}`, content);
      if ((await sandbox.files.read(`${dir}/${file}`)) !== content)
        throw new Error('another content came back');
    });
    await watched;
  };
  const type = async (n: number): Promise<void> => {
    const word = `<${n}>`;
    heard = '';
    await timed('terminal', async () => {
      const told = new Promise<void>((resolve) => {
        listen = () => {
          // What is typed is echoed with the quotes; what is said is not.
          if (heard.includes(`${word}end`)) resolve();
        };
      });
      await sandbox.pty.sendInput(terminal.pid, Buffer.from(`echo '${word}''end'\n`));
      await told;
    });
  };
  const loops = [
    ['exec', run],
    ['files and watch', write],
    ['terminal', type],
  ] as const;
  await Promise.all(
    loops.map(async ([what, work]) => {
      await step(what, () => work(0));
      void repeat(what, work);
    }),
  );

  /** A thing that fails is tried again, so that one failure is not the end of the load. */
  async function repeat(what: string, work: (n: number) => Promise<void>): Promise<void> {
    for (let n = 1; !signal.aborted; n += 1) {
      // A quarter more or less, lest all get into step.
      await sleep(order.pauseMs * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      await work(n).catch((error: unknown) => diary.failed(what, error));
    }
  }
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
