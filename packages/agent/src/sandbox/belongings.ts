/** What a sandbox has of the host's, and how it is given back: its machines, one for each time it woke, and its files. */
import { type CleanupFailure, type CleanupStack, createCleanupStack } from './cleanup-stack.ts';
import type { SandboxDeps } from './deps.ts';

export interface Belongings {
  /** For what it is going to hold. */
  newMachine(): CleanupStack;
  /** All but its files. Tells what could not be taken away: that is tried again the next time. */
  releaseMachines(): Promise<string[]>;
  /** Its files last: they name the rest for as long as that is there. Tells the same. */
  releaseAll(): Promise<string[]>;
}

export function createBelongings(
  { observer, log, config }: SandboxDeps,
  id: string,
  files: CleanupStack,
  first: CleanupStack,
): Belongings {
  /** The last is what it holds now; of earlier ones something could not be taken away. */
  let machines = [first];

  const told = (failures: readonly CleanupFailure[]): string[] => {
    for (const { step, error } of failures) {
      observer.cleanupFailed(step);
      log.error({ sandboxId: id, step, err: error }, 'something could not be taken away');
    }
    return failures.map(({ step }) => step);
  };
  const releaseMachines = async (): Promise<string[]> => {
    const failures: CleanupFailure[] = [];
    const kept: CleanupStack[] = [];
    for (const machine of machines.toReversed()) {
      const failed = await machine.release();
      failures.push(...failed);
      if (failed.length > 0) kept.unshift(machine);
    }
    machines = kept;
    return told(failures);
  };
  return {
    newMachine: () => {
      const machine = createCleanupStack(config.timeouts.cleanupStepMs);
      machines.push(machine);
      return machine;
    },
    releaseMachines,
    releaseAll: async () => {
      const left = await releaseMachines();
      return left.length > 0 ? left : told(await files.release());
    },
  };
}
