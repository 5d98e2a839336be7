/** The API is killed with a hundred requests under way, again and again, and must have all that it has acknowledged. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once, setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseApiConfig } from './config/schema.ts';
import { openStore } from './store/index.ts';
import { type FakeAgent, startFakeAgent } from './testing/fake-agent.ts';
import { type PostgresServer, startPostgres } from './testing/postgres.ts';
import { bundleProgram, type Program } from './testing/program.ts';

const ROUNDS = 3;
const REQUESTS = 100;

let dir: string;
let program: Program;
let postgres: PostgresServer;
/** Also of a test that fails before it has killed its own. */
const children: ChildProcess[] = [];
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-kill-'));
  [program, postgres] = await Promise.all([bundleProgram('api-program'), startPostgres()]);
}, 120_000);
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  program.remove();
  await postgres.stop();
  rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
});

interface Running {
  readonly url: string;
  readonly child: ChildProcess;
}

async function start(config: object): Promise<Running> {
  const child = spawn(process.execPath, [program.file, JSON.stringify(config)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`The API ended before it listened: ${code}.`);
  });
  const [port] = await Promise.race([once(child.stdout, 'data'), ended]);
  // It will be killed: that is no failure any more.
  ended.catch(() => {});
  return { child, url: `http://127.0.0.1:${String(port).trim()}` };
}

describe.each(['embedded', 'on a server'])('an API whose store is %s', (where) => {
  let agent: FakeAgent;
  afterAll(async () => await agent.close());

  it('loses nothing that it has acknowledged, and leaves nothing behind', { timeout: 600_000 }, async () => {
    const socketPath = join(dir, `${where.length}.sock`);
    agent = await startFakeAgent(socketPath);
    const store =
      where === 'embedded' ? { dataDir: join(dir, 'store') } : { databaseUrl: postgres.database() };
    const limits = { createsPerMinute: 100_000, maxSandboxes: 10_000 };
    const config = {
      listen: { port: 0 },
      agent: { socketPath },
      store,
      keyLimits: limits,
      sandboxes: { watchIntervalMs: 100 },
    };
    const opened = await openStore(parseApiConfig(config).store);
    const { secret: key } = await opened.keys.create({ name: 'first', admin: true });
    await opened.close();

    /** Acknowledged: sandboxes with what was kept of them, and keys. */
    const alive = new Map<string, string>();
    const killed = new Set<string>();
    const keys: string[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const { url, child } = await start(config);
      const gone = new AbortController();
      setMaxListeners(0, gone.signal);
      const call = async (method: string, path: string, body?: unknown) => {
        const answer = await fetch(`${url}${path}`, {
          method,
          headers: { 'x-api-key': key, 'content-type': 'application/json' },
          signal: gone.signal,
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        });
        const text = await answer.text();
        return { status: answer.status, body: text === '' ? undefined : JSON.parse(text) };
      };
      /** Of a busy machine an answer may be late: that is no loss. */
      const look = async (path: string): Promise<Awaited<ReturnType<typeof call>>> => {
        const answer = await call('GET', path);
        return answer.status === 504 ? look(path) : answer;
      };
      // What was acknowledged in the rounds before is there.
      const kept = [...alive].map(async ([id, note]) => {
        const { status, body } = await look(`/sandboxes/${id}`);
        expect([status, body.metadata?.note], id).toEqual([200, note]);
      });
      const ended = [...killed].map(async (id) => {
        expect((await look(`/sandboxes/${id}`)).status, id).toBe(404);
      });
      const known = keys.map(async (made) => {
        expect((await fetch(`${url}/teams`, { headers: { 'x-api-key': made } })).status).toBe(200);
      });
      await Promise.all([...kept, ...ended, ...known]);
      // What the killed API had begun and told nobody of is swept, or is its owner's to see; nothing else is there.
      await expect
        .poll(
          async () => {
            // All of them: this list has no pages.
            const { body } = await look('/sandboxes');
            const listed = new Set<string>(body.map(({ sandboxID }: { sandboxID: string }) => sandboxID));
            return [...agent.sandboxes.keys()].filter((id) => !listed.has(id));
          },
          { timeout: 20_000 },
        )
        .toEqual([]);

      const before = [...alive.keys()];
      let answered = 0;
      const exited = once(child, 'exit');
      const enough = 40 + round * 15;
      // In the middle of a creation, and not always at the same place: this one cannot be acknowledged.
      agent.onCreate = () => void (answered >= enough && child.kill('SIGKILL'));
      const ask = async (n: number): Promise<void> => {
        const note = `${round}.${n}`;
        const old = before[n];
        if (n % 4 === 3 && old !== undefined) {
          alive.delete(old);
          const { status } = await call('DELETE', `/sandboxes/${old}`);
          if (status === 204) killed.add(old);
        } else if (n % 10 === 5) {
          const made = await call('POST', '/api-keys', { name: note });
          if (made.status === 201) keys.push(made.body.key);
        } else {
          const made = await call('POST', '/v2/sandboxes', {
            templateID: 'base',
            timeout: 3600,
            metadata: { note },
          });
          if (made.status === 201) alive.set(made.body.sandboxID, note);
        }
        answered += 1;
      };
      // Who is answered asks again, until nobody answers: all of them could be answered before this process sees the first.
      const work = Array.from({ length: REQUESTS }, async (_, first) => {
        for (let n = first; ; n += REQUESTS) await ask(n);
      });
      const done = Promise.allSettled(work);
      await exited;
      gone.abort();
      await done;
      agent.onCreate = undefined;
    }
    expect(alive.size + killed.size).toBeGreaterThan(ROUNDS * 5);
    expect(keys.length).toBeGreaterThan(ROUNDS);
  });
});
