/** Where the edge finds sandboxes. What it learns is kept for a moment, and forgotten at once when one is gone. */
import { ENVD_PORT, WrennError } from '@wrenn/protocol';
import type { Agent } from '../agent-client/index.ts';
import type { ApiConfig } from '../config/schema.ts';
import type { EdgeDirectory, EdgeTarget } from '../directory.ts';
import type { SandboxStore } from '../store/sandboxes.ts';
import { retryable } from './limits.ts';
import { unlessAborted, type Waker } from './waker.ts';
import type { Watcher } from './watcher.ts';

export interface EdgeDirectoryDeps {
  readonly agent: Agent;
  readonly store: SandboxStore;
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
const ID = /^[a-z0-9]{20}$/;

interface Kept {
  readonly target: Promise<EdgeTarget | undefined>;
  readonly at: number;
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

  const look = async (id: string): Promise<EdgeTarget | undefined> => {
    const record = await store.get(id);
    if (record === undefined) return undefined;
    let sandbox = await agent.get(id).catch(ifGone);
    const asleep = sandbox?.state === 'hibernated' || waker.waking(id) !== undefined;
    if (asleep && record.autoResume) {
      if (waker.waking(id) === undefined && waker.size >= config.maxResumesInFlight) {
        throw retryable('too_many_requests', 'Too many sandboxes are being woken.', RETRY_MS);
      }
      sandbox = await unlessAborted(
        waker.wake(id, record.timeoutMs),
        AbortSignal.timeout(config.resumeTimeoutMs),
      ).catch(ifGone);
    }
    if (sandbox?.state !== 'running' || sandbox.address === '') return undefined;
    const { trafficToken, network } = record;
    return {
      sandboxId: id,
      address: sandbox.address,
      trafficToken,
      maskRequestHost: network.maskRequestHost,
    };
  };

  const remember = (id: string): Promise<EdgeTarget | undefined> => {
    const known = kept.get(id);
    if (known !== undefined && performance.now() - known.at < KEPT_MS) return known.target;
    const target = look(id);
    const entry = { target, at: performance.now() };
    kept.delete(id);
    kept.set(id, entry);
    const forget = (): void => {
      if (kept.get(id) === entry) kept.delete(id);
    };
    // Only what was found is kept: one that is not there now may be in a moment.
    target.then((found) => found === undefined && forget(), forget);
    const [oldest] = kept.keys();
    if (kept.size > MAX_KEPT && oldest !== undefined) kept.delete(oldest);
    return target;
  };

  return {
    find: async (id, signal) => (ID.test(id) ? await unlessAborted(remember(id), signal) : undefined),
    expose: async ({ sandboxId }, port, signal) => {
      const { address, envdAccessToken } = await agent.access(sandboxId, signal);
      const answer = await fetch(`http://${address}:${envdPort}/expose`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-access-token': envdAccessToken },
        body: JSON.stringify({ port }),
        redirect: 'error',
        signal: AbortSignal.any([signal, AbortSignal.timeout(EXPOSE_TIMEOUT_MS)]),
      });
      // Whatever the guest has to say about it is not read.
      await answer.body?.cancel();
      return answer.status === 204;
    },
    onGone: (listener) => watcher.onGone((id) => listener(id)),
  };
}

function ifGone(error: unknown): undefined {
  if (error instanceof WrennError && (error.kind === 'not_found' || error.kind === 'conflict'))
    return undefined;
  throw error;
}
