/** How set-up tells what it is doing. */

export interface ProgressEvent {
  /** What is being made, as `kernel` or `template minimal`. */
  readonly step: string;
  readonly state: 'started' | 'progress' | 'done' | 'skipped';
  readonly message: string;
  readonly elapsedMs: number;
}

export type OnProgress = (event: ProgressEvent) => void;

export interface StepReporter {
  progress(message: string): void;
  done(message: string): void;
  skipped(message: string): void;
}

/** Announces a step; the reporter's calls carry the time since. */
export function startStep(step: string, message: string, onProgress: OnProgress): StepReporter {
  const startedAt = performance.now();
  const report = (state: ProgressEvent['state'], text: string) =>
    onProgress({ step, state, message: text, elapsedMs: Math.round(performance.now() - startedAt) });
  report('started', message);
  return {
    progress: (text) => report('progress', text),
    done: (text) => report('done', text),
    skipped: (text) => report('skipped', text),
  };
}
