/**
 * Whether a warm template is still good, where a guest that came from it says that it did not become what it is to be.
 * Whoever has root in a guest can say so, too, and the template is everybody's: what counts is what a copy says that no
 * tenant has touched, and the agent makes one to see.
 */
import { WrennError } from '@wrenn/protocol';
import type { Snapshot } from '../storage/snapshots.ts';
import type { SandboxDeps } from './deps.ts';
import { collect, exec } from './exec.ts';
import { orderOf, type Roster } from './roster.ts';
import { ownSpec } from './spec.ts';

export interface Trials {
  /** Tries it out in the background, unless that was done a moment ago. Never throws. */
  suspect(snapshot: Snapshot): void;
}

/** Guests can ask for a trial as often as they are made: each costs a sandbox. */
const TRIAL_INTERVAL_MS = 60_000;

/** Errors of a start from a warm template that may be the template's fault: after them a boot may still succeed. */
const TEMPLATES_FAULTS: ReadonlySet<string> = new Set([
  'vmm_died',
  'vmm_api_error',
  'deadline_exceeded',
  'guest_unreachable',
  'guest_protocol',
  'snapshot_not_found',
  'snapshot_corrupt',
  'internal',
]);

export function isTemplatesFault(error: unknown): boolean {
  return error instanceof WrennError && TEMPLATES_FAULTS.has(error.code);
}

/** `onUnfit` is called for one that has failed its trial, perhaps more than once. */
export function createTrials(
  deps: SandboxDeps,
  roster: Roster,
  onUnfit: (snapshot: Snapshot) => void,
  signal: AbortSignal,
): Trials {
  const { config, log } = deps;
  const { timeouts } = config;
  /** When each that was tried may be tried again. */
  const dueAtMs = new Map<string, number>();

  const tryOut = async (snapshot: Snapshot): Promise<void> => {
    const { template } = snapshot;
    const spec = ownSpec(template.name, snapshot, config.defaults);
    const start = { kind: 'copy', snapshot, onRefused: () => onUnfit(snapshot) } as const;
    const sandbox = await roster.make(orderOf(deps, { spec, template, start, purpose: 'own' }));
    try {
      // The guest does nothing before it has applied its settings, and nothing at all where it could not.
      const request = { command: ['true'], envs: {}, stdin: false, timeoutMs: timeouts.guestRequestMs };
      await collect(exec(sandbox.use(), request, timeouts, signal));
    } finally {
      await sandbox.destroy();
    }
  };

  return {
    suspect: (snapshot) => {
      const { id } = snapshot;
      const nowMs = performance.now();
      if (signal.aborted || nowMs < (dueAtMs.get(id) ?? 0)) return;
      for (const [other, at] of dueAtMs) if (at <= nowMs) dueAtMs.delete(other);
      dueAtMs.set(id, nowMs + TRIAL_INTERVAL_MS);
      tryOut(snapshot).then(
        () => log.info({ snapshotId: id }, 'a warm template was tried out'),
        (err: unknown) => {
          if (signal.aborted) return;
          log.warn({ snapshotId: id, err }, 'a warm template could not be tried out');
          if (isTemplatesFault(err)) return onUnfit(snapshot);
          // There was no room for it, say.
          dueAtMs.delete(id);
        },
      );
    },
  };
}
