/**
 * What has to be taken away again, last acquired first. Each release is registered before its acquisition,
 * so it must also be right when there is nothing to release.
 */
import { WrennError } from '@wrenn/protocol';
import { withinMs } from '../signals/signals.ts';

export interface CleanupFailure {
  readonly step: string;
  readonly error: unknown;
}

export interface RegisterOptions {
  /** Put off as long as anything that was acquired later is still there. */
  readonly onlyAfterTheRest?: boolean;
}

export interface CleanupStack {
  /** Call before acquiring. Throws once `release` has begun: nothing may be acquired any more. */
  register(step: string, release: () => Promise<void>, options?: RegisterOptions): void;
  /**
   * Runs every release under a deadline; one that fails does not keep the others from running. Each that
   * succeeds runs once only: what it released may be somebody else's by now. Called again it tries those that
   * failed. Calls at the same time share one outcome. Never rejects.
   */
  release(): Promise<readonly CleanupFailure[]>;
}

interface Step extends RegisterOptions {
  readonly name: string;
  readonly release: () => Promise<void>;
}

export function createCleanupStack(stepTimeoutMs: number): CleanupStack {
  let steps: Step[] = [];
  let begun = false;
  let running: Promise<readonly CleanupFailure[]> | undefined;

  const releaseAll = async (): Promise<readonly CleanupFailure[]> => {
    const failures: CleanupFailure[] = [];
    const kept: Step[] = [];
    for (const step of [...steps].reverse()) {
      if (step.onlyAfterTheRest === true && failures.length > 0) {
        kept.unshift(step);
        continue;
      }
      try {
        await withinMs(stepTimeoutMs, `Taking away the ${step.name}`, step.release());
      } catch (error) {
        failures.push({ step: step.name, error });
        kept.unshift(step);
      }
    }
    steps = kept;
    return failures;
  };

  return {
    register: (name, release, options = {}) => {
      if (begun) {
        throw new WrennError('cancelled', `Nothing more can be set up: the ${name} came too late.`);
      }
      steps.push({ name, release, ...options });
    },
    release: () => {
      begun = true;
      running ??= releaseAll().finally(() => {
        running = undefined;
      });
      return running;
    },
  };
}
