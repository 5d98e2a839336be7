/**
 * One API for each database on a server. A second one would end what it does not know, and take away what the first is
 * only just creating. A lock of the server's says who has it: it is a session's, and ends with it, however that ends.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import pg from 'pg';

export interface Claim {
  /** Lets go of it. Idempotent. */
  release(): Promise<void>;
}

export interface ClaimOptions {
  readonly connectionString: string;
  readonly connectTimeoutMs: number;
  /** A session that broke is followed by another one; called where somebody else had taken the database by then. */
  readonly onLost: (error: WrennError) => void;
  /** For one that has it to let go of it. */
  readonly waitMs?: number;
  /** How often it is asked whether it still holds. */
  readonly beatMs?: number;
}

/** One that was just killed lets go of it within milliseconds. */
const WAIT_MS = 2000;
const BEAT_MS = 10_000;
const BEAT_TIMEOUT_MS = 5000;
const RETRY_MS = 1000;
/** The server's own: of a session whose host went away without a word, 30 seconds and three probes later. */
const KEEPALIVES = `SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`;
/** Of advisory locks of two numbers; the other one is the table whose rows a second API would take for left behind. */
const NAMESPACE = 0x77_72_65_6e;
const TAKE = `SELECT pg_advisory_lock(${NAMESPACE}, 'creations'::regclass::oid::int)`;
const IS_HELD = `SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
  AND classid = ${NAMESPACE} AND objid = 'creations'::regclass`;
const LOCK_NOT_AVAILABLE = '55P03';

interface Session {
  /** Resolves when the lock is not held any more. */
  readonly ended: Promise<void>;
  end(): void;
}

/** Throws `store_in_use` where another API has the database. */
export async function claimServer(options: ClaimOptions): Promise<Claim> {
  const stopped = new AbortController();
  let session = await takeLock(options);

  const again = async (): Promise<Session> => {
    for (;;) {
      try {
        return await takeLock(options);
      } catch (error) {
        if (error instanceof WrennError && error.code === 'store_in_use') throw error;
        // The server is away, and nobody else has it meanwhile.
        await sleep(RETRY_MS, undefined, { signal: stopped.signal, ref: false });
      }
    }
  };
  const keep = async (): Promise<void> => {
    for (;;) {
      await session.ended;
      if (stopped.signal.aborted) return;
      session = await again();
      if (stopped.signal.aborted) session.end();
    }
  };
  const keeping = keep().catch((error: unknown) => {
    if (!stopped.signal.aborted) options.onLost(WrennError.from(error));
  });
  return {
    release: async () => {
      stopped.abort();
      session.end();
      await keeping;
    },
  };
}

async function takeLock({
  connectionString,
  connectTimeoutMs,
  waitMs = WAIT_MS,
  beatMs = BEAT_MS,
}: ClaimOptions): Promise<Session> {
  // Ours, for it to be closed without the server's help, which may not be there any more.
  const socket = new Socket();
  const client = new pg.Client({
    connectionString,
    stream: () => socket,
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: BEAT_TIMEOUT_MS,
    keepAlive: true,
  });
  const ended = new Promise<void>((resolve) => {
    client.once('end', resolve);
    client.on('error', () => resolve());
    socket.once('close', () => resolve());
  });
  try {
    await client.connect();
    await client.query(`SET lock_timeout = ${waitMs}; ${KEEPALIVES}`);
    await client.query(TAKE);
  } catch (error) {
    socket.destroy();
    throw refused(error);
  }
  const beat = setInterval(() => {
    client.query(IS_HELD).then(
      ({ rowCount }) => rowCount === 1 || socket.destroy(),
      () => socket.destroy(),
    );
  }, beatMs).unref();
  const stop = (): void => clearInterval(beat);
  ended.then(stop);
  return { ended, end: () => socket.destroy() };
}

function refused(error: unknown): WrennError {
  if (error instanceof Error && 'code' in error && error.code === LOCK_NOT_AVAILABLE) {
    return new WrennError('store_in_use', 'Another API uses this database already.', {
      hint: 'One API at a time can have a database: end the other one, or name another database in DATABASE_URL.',
      cause: error,
    });
  }
  return new WrennError('store_unavailable', 'The database cannot be claimed.', {
    hint: 'It must allow sessions: a pooler in front of it may not hand connections on between transactions.',
    cause: error,
  });
}
