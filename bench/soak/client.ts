/** Clients in one process. Told by the parent what to do; tells how much it did and what went wrong. */
import { setMaxListeners } from 'node:events';
import { type ClientOrder, type ClientReport, KINDS, type Kind, type ToClients } from './messages.ts';
import { beginClient, type Diary } from './work.ts';

const MAX_ERRORS = 50;
const PROGRESS_MS = 5000;

const stopping = new AbortController();
setMaxListeners(0, stopping.signal);
const errors: string[] = [];
const waiting = new Map<string, number>();
let done: Record<Kind, number>[] = [];
let tookMs = perKind((): number[] => []);

function perKind<T>(value: () => T): Record<Kind, T> {
  return Object.fromEntries(KINDS.map((kind) => [kind, value()])) as Record<Kind, T>;
}

function fail(what: string, error: unknown): void {
  if (stopping.signal.aborted || errors.length >= MAX_ERRORS) return;
  errors.push(`${what}: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
}

function diaryOf(index: number, name: string): Diary {
  const wait = (what: string, change: 1 | -1): void => {
    waiting.set(what, (waiting.get(what) ?? 0) + change);
  };
  return {
    waits: (what) => wait(what, 1),
    waitsNoMore: (what) => wait(what, -1),
    did: (kind, ms) => {
      if (stopping.signal.aborted) return;
      const mine = done[index];
      if (mine !== undefined) mine[kind] += 1;
      tookMs[kind].push(Math.round(ms));
    },
    failed: (what, error) => fail(`${name}, ${what}`, error),
  };
}

function tell(report: ClientReport): void {
  process.send?.(report);
}

async function begin(order: ClientOrder): Promise<void> {
  done = order.clients.map(() => perKind(() => 0));
  const progress = setInterval(() => {
    tell({ kind: 'progress', waiting: Object.fromEntries([...waiting].filter(([, count]) => count > 0)) });
  }, PROGRESS_MS);
  await Promise.all(
    order.clients.map((one, index) =>
      beginClient(order, one, diaryOf(index, one.name), stopping.signal).catch((error: unknown) =>
        fail(`${one.name} could not begin`, error),
      ),
    ),
  );
  clearInterval(progress);
  tell({ kind: 'ready' });
}

process.on('message', (message: ToClients) => {
  if (message === 'count') {
    done = done.map(() => perKind(() => 0));
    tookMs = perKind((): number[] => []);
  } else if (message === 'stop') {
    stopping.abort();
    tell({ kind: 'report', done, tookMs, errors });
  } else {
    void begin(message);
  }
});
process.on('disconnect', () => process.exit());
