/** What must be taken away again, newest first, whatever happened in between. */

export interface Releases {
  add(what: string, release: () => Promise<unknown>): () => Promise<void>;
  /** Runs what has not run yet. Failures are told on stderr and do not keep the others from running. */
  all(): Promise<void>;
}

export function createReleases(): Releases {
  const held: (() => Promise<void>)[] = [];
  return {
    add: (what, release) => {
      let released: Promise<void> | undefined;
      const once = (): Promise<void> => {
        released ??= release().then(
          () => {},
          (error: unknown) => {
            process.stderr.write(`bench: ${what} could not be taken away: ${String(error)}\n`);
            process.exitCode = 1;
          },
        );
        return released;
      };
      held.push(once);
      return once;
    },
    all: async () => {
      for (const release of held.splice(0).reverse()) await release();
    },
  };
}
