/**
 * A PostgreSQL server of a test's own: Debian's, in a temporary directory, as a user without privileges. It is not
 * left out where it is missing: half of what is promised of the store would go untested unnoticed.
 */
import { spawn, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface PostgresServer {
  /** The address of a new database. */
  database(): string;
  stop(): Promise<void>;
}

const VERSIONS_DIR = '/usr/lib/postgresql';
const START_TIMEOUT_MS = 60_000;
const MAX_TRIES = 5;

export async function startPostgres(): Promise<PostgresServer> {
  const bin = binaries();
  const user = process.getuid?.() === 0 ? postgresUser() : undefined;
  const dir = mkdtempSync(join(tmpdir(), 'wrenn-postgres-'));
  const as = user === undefined ? {} : { uid: user.uid, gid: user.gid };
  if (user !== undefined) chownSync(dir, user.uid, user.gid);
  const made = spawnSync(
    join(bin, 'initdb'),
    ['-D', join(dir, 'db'), '-A', 'trust', '-N', '-U', 'postgres'],
    { ...as, cwd: dir },
  );
  if (made.status !== 0) throw new Error(`initdb failed: ${made.stderr}`);
  const remove = (): void => rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  let server: Serving | undefined;
  // By the time that it listens somebody else may have the port that was free.
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (let tries = 0; server === undefined && tries < MAX_TRIES; tries += 1) {
    server = await serve({ bin, dir, as, deadline });
  }
  if (server === undefined) {
    remove();
    throw new Error('PostgreSQL did not start.');
  }
  const { port, end } = server;
  const stop = async (): Promise<void> => {
    await end();
    remove();
  };
  let databases = 0;
  return {
    database: () => {
      databases += 1;
      const url = `postgres://postgres@127.0.0.1:${port}`;
      const created = spawnSync(join(bin, 'psql'), [
        `${url}/postgres`,
        '-c',
        `CREATE DATABASE d${databases}`,
      ]);
      if (created.status !== 0) throw new Error(`no database: ${created.stderr}`);
      return `${url}/d${databases}`;
    },
    stop,
  };
}

interface Serving {
  readonly port: number;
  end(): Promise<void>;
}

interface ServeOptions {
  readonly bin: string;
  readonly dir: string;
  readonly as: { readonly uid?: number; readonly gid?: number };
  readonly deadline: number;
}

/** Undefined where it has ended by itself, or says nothing for too long. */
async function serve({ bin, dir, as, deadline }: ServeOptions): Promise<Serving | undefined> {
  const port = await freePort();
  // It is not killed itself, so nothing needs to be on the disk.
  const settings = ['-D', join(dir, 'db'), '-p', String(port), '-h', '127.0.0.1', '-k', dir, '-F'];
  const server = spawn(join(bin, 'postgres'), settings, { ...as, cwd: dir, stdio: 'ignore' });
  const ended = new Promise<void>((resolve) => server.once('exit', () => resolve()));
  const end = async (): Promise<void> => {
    server.kill('SIGQUIT');
    await ended;
  };
  // At its own socket, which it has once it has the port: at the port another test's might say yes.
  const ready = ['-h', dir, '-p', String(port), '-q'];
  while (spawnSync(join(bin, 'pg_isready'), ready).status !== 0) {
    if (Date.now() > deadline || server.exitCode !== null) {
      await end();
      return undefined;
    }
    await sleep(100);
  }
  return { port, end };
}

function binaries(): string {
  const versions = existsSync(VERSIONS_DIR) ? readdirSync(VERSIONS_DIR) : [];
  const [newest] = versions
    .map(Number)
    .filter(Number.isInteger)
    .sort((a, b) => b - a);
  const bin = join(VERSIONS_DIR, String(newest), 'bin');
  if (newest === undefined || !existsSync(join(bin, 'initdb'))) {
    throw new Error('PostgreSQL is missing, which these tests need: sudo apt-get install postgresql');
  }
  return bin;
}

function postgresUser(): { readonly uid: number; readonly gid: number } {
  const [uid, gid] = ['-u', '-g'].map((which) => Number(spawnSync('id', [which, 'postgres']).stdout));
  if (!uid || !gid) throw new Error('The package postgresql should have made a user of this name.');
  return { uid, gid };
}

async function freePort(): Promise<number> {
  return await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
