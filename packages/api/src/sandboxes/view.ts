/** A sandbox as its owner sees it, and what is said of one that is in no state for what is asked. */
import { WrennError } from '@wrenn/protocol';
import type { AgentAccess, AgentSandbox, AgentState } from '../agent-client/index.ts';
import type { NewSandboxRecord, SandboxRecord } from '../store/sandboxes.ts';
import { retryable } from './limits.ts';

/** It is for whoever runs the host to mend, or for the agent's next look. */
const KEPT_RETRY_MS = 10_000;

export interface SandboxView {
  readonly record: SandboxRecord | NewSandboxRecord;
  readonly sandbox: AgentSandbox;
  readonly state: 'running' | 'paused';
}

export interface AccessibleSandbox extends SandboxView {
  readonly access: AgentAccess;
}

type Standing = Pick<AgentSandbox, 'state' | 'keptAs'>;

/** What it is at. For one that the agent keeps and does not have, what it was at: it may be so still. */
export function standingOf({ state, keptAs }: Standing): AgentState {
  return keptAs ?? state;
}

/** It never runs again. */
export function hasEnded(sandbox: Standing): boolean {
  const state = standingOf(sandbox);
  return state === 'failed' || state === 'destroying';
}

/** Throws for one that the agent keeps and does not have: nobody should take that for its end. */
export function assertHad({ keptAs }: Standing): void {
  if (keptAs === undefined) return;
  // 409 would do, were it not for SDKs that take it for `paused already`.
  throw retryable(
    'sandbox_unavailable',
    'The sandbox cannot be reached at the moment and is kept as it is: try again later, or kill it.',
    KEPT_RETRY_MS,
  );
}

export function stateOf(sandbox: Standing): 'running' | 'paused' {
  const state = standingOf(sandbox);
  return state === 'hibernated' || state === 'hibernating' || state === 'paused' ? 'paused' : 'running';
}

export function inTransition({ state }: AgentSandbox): WrennError {
  return conflict(`The sandbox is ${state}: try again when that is done.`);
}

/** One that is paused has no time. 404 is all that SDKs expect here besides success. */
export function assertTimed(sandbox: AgentSandbox): void {
  if (stateOf(sandbox) !== 'paused') return;
  if (sandbox.state === 'hibernating') throw inTransition(sandbox);
  throw new WrennError(
    'sandbox_not_found',
    'The sandbox does not run: it is paused, and gets its time from who connects to it.',
  );
}

export function conflict(message: string): WrennError {
  return new WrennError('sandbox_wrong_state', message);
}
