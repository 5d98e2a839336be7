/** A sandbox as its owner sees it, and what is said of one that is in no state for what is asked. */
import { WrennError } from '@wrenn/protocol';
import type { AgentAccess, AgentSandbox } from '../agent-client/index.ts';
import type { NewSandboxRecord, SandboxRecord } from '../store/sandboxes.ts';

export interface SandboxView {
  readonly record: SandboxRecord | NewSandboxRecord;
  readonly sandbox: AgentSandbox;
  readonly state: 'running' | 'paused';
}

export interface AccessibleSandbox extends SandboxView {
  readonly access: AgentAccess;
}

export function stateOf({ state }: AgentSandbox): 'running' | 'paused' {
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
