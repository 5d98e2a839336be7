/**
 * The states of a sandbox.
 *
 *     creating ──► running ◄──► paused ──► hibernating
 *                   ▲  └───────────────────► hibernating ──► hibernated ◄──► resuming ──► running
 *
 *     any of them ──► destroying ──► (gone)
 *                         └────────► failed ──► destroying ──► (gone)
 *
 * `creating`    listed from the moment its id is journalled; not usable yet
 * `running`     the guest agent has answered
 * `paused`      the guest's CPUs stand still, its memory is kept
 * `hibernating` stands still while it is written to the disk; goes on if that fails
 * `hibernated`  is files alone, and holds nothing else of the host's
 * `resuming`    is being restored from its files; hibernated again if that fails
 * `destroying`  what it holds is being taken away, asked for or because the VMM died
 * `failed`      it ended by itself; all it held is released, or the reason says what could not be.
 *               Kept for a while so that the reason can be asked for. Or it was left by an earlier agent,
 *               and this one could not adopt it: all of it stays as it is until it is destroyed, or adopted
 *               after all; whoever asks for it meanwhile is told `sandbox_unavailable`
 */
import { WrennError } from '@wrenn/protocol';

export const SANDBOX_STATES = [
  'creating',
  'running',
  'paused',
  'hibernating',
  'hibernated',
  'resuming',
  'destroying',
  'failed',
] as const;

export type SandboxState = (typeof SANDBOX_STATES)[number];

/** `gone` is not a state: who asks then is told `sandbox_not_found`. */
export const FOLLOWS: Readonly<Record<SandboxState, readonly SandboxState[]>> = {
  creating: ['running', 'destroying'],
  running: ['paused', 'hibernating', 'destroying'],
  paused: ['running', 'hibernating', 'destroying'],
  hibernating: ['running', 'paused', 'hibernated', 'destroying'],
  hibernated: ['resuming', 'destroying'],
  resuming: ['running', 'hibernated', 'destroying'],
  destroying: ['failed'],
  /** Runs again, or is paused again: where it was kept, and could be adopted after all. */
  failed: ['running', 'paused', 'destroying'],
};

/** What is asked of a sandbox; `use` is commands and files. Destroying is possible in every state. */
export type Operation =
  | 'pause'
  | 'resume'
  | 'hibernate'
  | 'snapshot'
  | 'setTimeout'
  | 'setEgress'
  | 'access'
  | 'use';

const POSSIBLE_IN: Readonly<Record<Operation, readonly SandboxState[]>> = {
  pause: ['running'],
  resume: ['paused', 'hibernated'],
  hibernate: ['running', 'paused'],
  snapshot: ['running', 'paused'],
  setTimeout: ['creating', 'running', 'paused'],
  setEgress: ['running', 'paused', 'hibernated'],
  access: ['running', 'paused', 'hibernating', 'hibernated', 'resuming'],
  use: ['running'],
};

const VERBS: Readonly<Record<Operation, string>> = {
  pause: 'be paused',
  resume: 'be resumed',
  hibernate: 'hibernate',
  snapshot: 'be copied',
  setTimeout: 'be given a timeout',
  setEgress: 'be given other rules',
  access: 'be reached',
  use: 'be used',
};

const HINTS: Readonly<Record<SandboxState, string>> = {
  creating: 'Wait until its creation has ended.',
  running: 'It is running already.',
  paused: '`wrenn sandbox resume` continues it.',
  hibernating: 'Wait until it has hibernated, and resume it.',
  hibernated: '`wrenn sandbox resume` continues it.',
  resuming: 'Wait until it runs.',
  destroying: 'It is about to be gone; create a new one.',
  failed: 'Create a new one.',
};

/** Throws when one state cannot follow the other: a mistake of ours, never of a request. */
export function assertFollows(from: SandboxState, to: SandboxState): void {
  if (FOLLOWS[from].includes(to)) return;
  throw new WrennError('internal', `A sandbox that is ${from} cannot become ${to}.`);
}

export interface StateView {
  readonly id: string;
  readonly state: SandboxState;
  /** Why it failed. */
  readonly reason: string | undefined;
  /** It may be well all the same: see SandboxView. */
  readonly keptAs: SandboxState | undefined;
}

/** Throws `sandbox_wrong_state`, `sandbox_failed`, or `sandbox_unavailable` for one that may be well. */
export function assertPossible(sandbox: StateView, operation: Operation): void {
  const { id, state, reason, keptAs } = sandbox;
  if (POSSIBLE_IN[operation].includes(state)) return;
  if (keptAs !== undefined) {
    // How to reach it, should it be had again, is no secret from its owner meanwhile.
    if (operation === 'access' && POSSIBLE_IN.access.includes(keptAs)) return;
    // Without the reason, which is for whoever runs the host.
    throw new WrennError(
      'sandbox_unavailable',
      `Sandbox ${id} may be well, but the agent does not have it.`,
      {
        hint: `\`wrenn sandbox get ${id}\` tells why. Try again in a minute.`,
      },
    );
  }
  if (reason !== undefined) {
    throw new WrennError('sandbox_failed', `Sandbox ${id} has failed: ${reason}`, { hint: HINTS.failed });
  }
  throw new WrennError('sandbox_wrong_state', `Sandbox ${id} cannot ${VERBS[operation]}: it is ${state}.`, {
    hint: HINTS[state],
  });
}
