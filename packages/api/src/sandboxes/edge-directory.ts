/** Where the edge finds sandboxes. What it learns is kept for a moment, and forgotten at once when one is gone. */
import { ENVD_PORT, WrennError } from '@wrenn/protocol';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { ApiConfig } from '../config/schema.ts';
import type { EdgeDirectory, EdgeTarget } from '../directory.ts';
import type { Store } from '../store/index.ts';
import { isGood } from '../store/keys.ts';
import type { SandboxRecord } from '../store/sandboxes.ts';
import { askGuest } from './ask-guest.ts';
import { retryable } from './limits.ts';
import { assertHad, hasEnded } from './view.ts';
import { unlessAborted, type Waker } from './waker.ts';
import type { Watcher } from './watcher.ts';

export interface EdgeDirectoryDeps {
  readonly agent: Agent;
  readonly store: Pick<Store, 'keys' | 'sandboxes'>;
  readonly watcher: Watcher;
  readonly waker: Waker;
  readonly config: ApiConfig['sandboxes'];
  /** Where guest agents listen. */
  readonly envdPort?: number | undefined;
}

const KEPT_MS = 2000;
const MAX_KEPT = 10_000;
const RETRY_MS = 1000;
const EXPOSE_TIMEOUT_MS = 5000;
/** Whatever the guest has to say about it is not looked at. */
const EXPOSE_ANSWER_MAX_BYTES = 16 * 1024;
const ID = /^[a-z0-9]{20}$/;

interface Found {
  readonly record: SandboxRecord;
  /** Undefined for one that sleeps. */
  readonly target: EdgeTarget | undefined;
  /** When its time is over it may pause or end: what was true until then is asked for again. */
  readonly endsAtMs: number;
}

interface Kept {
  readonly found: Promise<Found | undefined>;
  until: number;
}

export function createEdgeDirectory({
  agent,
  store,
  watcher,
  waker,
  config,
  envdPort = ENVD_PORT,
}: EdgeDirectoryDeps): EdgeDirectory {
  const kept = new Map<string, Kept>();
  watcher.onGone((id) => void kept.delete(id));

  const look = async (id: string): Promise<Found | undefined> => {
    const record = await store.sandboxes.get(id);
    if (record === undefined) return undefined;
    const sandbox = await agent.get(id).catch(ifGone);
    if (sandbox !== undefined && !hasEnded(sandbox)) assertHad(sandbox);
    const isAsleep =
      sandbox?.state === 'hibernated' || sandbox?.state === 'hibernating' || waker.waking(id) !== undefined;
    const isToBeWoken = isAsleep && record.autoResume;
    const target = isToBeWoken ? undefined : targetOf(record, sandbox);
    if (target === undefined && !isToBeWoken) return undefined;
    return { record, target, endsAtMs: sandbox?.endsAt?.getTime() ?? Number.POSITIVE_INFINITY };
  };

  /** Traffic acts for the key that made the sandbox, and no longer than that one itself may. */
  const mayBeWoken = async ({ id, keyId }: SandboxRecord): Promise<boolean> => {
    if (waker.waking(id) !== undefined) return true;
    const key = await store.keys.get(keyId);
    return key !== undefined && isGood(key);
  };

  const wake = async (record: SandboxRecord, signal: AbortSignal): Promise<EdgeTarget | undefined> => {
    if (!(await unlessAborted(mayBeWoken(record), signal))) return undefined;
    if (waker.waking(record.id) === undefined && waker.size >= config.maxResumesInFlight) {
      throw retryable('too_many_requests', 'Too many sandboxes are being woken.', RETRY_MS);
    }
    const woken = waker.wake(record, record.timeoutMs);
    const inTime = unlessAborted(woken, AbortSignal.timeout(config.resumeTimeoutMs));
    return targetOf(record, await unlessAborted(inTime, signal).catch(ifGone));
  };

  const remember = (id: string): Promise<Found | undefined> => {
    const known = kept.get(id);
    if (known !== undefined && Date.now() < known.until) return known.found;
    const found = look(id);
    const entry: Kept = { found, until: Date.now() + KEPT_MS };
    kept.delete(id);
    kept.set(id, entry);
    const forget = (): void => {
      if (kept.get(id) === entry) kept.delete(id);
    };
    found.then((what) => {
      // Only what runs is kept: one that is not there now, or sleeps, may be in a moment.
      if (what?.target === undefined) forget();
      else entry.until = Math.min(Date.now() + KEPT_MS, what.endsAtMs);
    }, forget);
    const [oldest] = kept.keys();
    if (kept.size > MAX_KEPT && oldest !== undefined) kept.delete(oldest);
    return found;
  };

  return {
    find: async (id, mayWake, signal) => {
      if (!ID.test(id)) return undefined;
      const found = await unlessAborted(remember(id), signal);
      if (found === undefined || found.target !== undefined) return found?.target;
      const { record } = found;
      return mayWake({ sandboxId: id, trafficToken: record.trafficToken })
        ? await wake(record, signal)
        : undefined;
    },
    expose: async ({ sandboxId }, port, signal) => {
      const { address, envdAccessToken } = await agent.access(sandboxId, signal);
      const { status } = await askGuest({
        address,
        port: envdPort,
        token: envdAccessToken,
        method: 'POST',
        path: '/expose',
        body: { port },
        timeoutMs: EXPOSE_TIMEOUT_MS,
        maxBytes: EXPOSE_ANSWER_MAX_BYTES,
        signal,
      });
      return status === 204;
    },
    onGone: (listener) => watcher.onGone((id) => listener(id)),
  };
}

function targetOf(
  { id, trafficToken, network }: SandboxRecord,
  sandbox: AgentSandbox | undefined,
): EdgeTarget | undefined {
  if (sandbox?.state !== 'running' || sandbox.address === '') return undefined;
  const { address } = sandbox;
  return { sandboxId: id, address, trafficToken, maskRequestHost: network.maskRequestHost };
}

function ifGone(error: unknown): undefined {
  if (error instanceof WrennError && (error.kind === 'not_found' || error.kind === 'conflict'))
    return undefined;
  throw error;
}
