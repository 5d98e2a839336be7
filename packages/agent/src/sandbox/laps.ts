/** How long the steps of one transition took, for the log; steps may overlap. */
import type { Phase } from './log.ts';

export interface Laps {
  <T>(name: string, work: () => Promise<T>): Promise<T>;
  readonly phases: readonly Phase[];
}

export function createLaps(): Laps {
  const phases: Phase[] = [];
  const lap = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    const startedAt = performance.now();
    try {
      return await work();
    } finally {
      phases.push({ name, durationMs: Math.round((performance.now() - startedAt) * 1000) / 1000 });
    }
  };
  return Object.assign(lap, { phases });
}
