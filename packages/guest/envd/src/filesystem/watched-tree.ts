/**
 * Which watch stands for which directory of a watched tree, by paths relative to its root ('' is the
 * root). Watches follow a directory when it is renamed, paths do not; and what has a path now need not be
 * what had it when an event was queued. So what leaves its place is remembered by its watches: it is
 * detached, which keeps its last path for `pathOf`, but a path leads to it no longer.
 */
export interface WatchedTree {
  /** Detached ones too. */
  readonly size: number;
  /** The last one where it is detached. */
  pathOf(wd: number): string | undefined;
  watchOf(path: string): number | undefined;
  /** Gives the watch its place; the one that had it, if any, is detached and told. */
  set(wd: number, path: string): number | undefined;
  forget(wd: number): void;
  isDetached(wd: number): boolean;
  /** Detaches the directory and all below it. */
  detach(path: string): Branch;
  /** Puts what is still detached of the branch there. Tells what was there before; it is detached. */
  attach(branch: Branch, path: string): number[];
  /** Forgets all; tells their watches. */
  clear(): number[];
}

/** Each with its path below that of the branch, which begins with a slash; the branch's own is ''. */
export type Branch = readonly { readonly wd: number; readonly below: string }[];

export function createWatchedTree(): WatchedTree {
  const pathByWatch = new Map<number, string>();
  const watchByPath = new Map<string, number>();

  function forget(wd: number): void {
    const path = pathByWatch.get(wd);
    if (path === undefined) return;
    pathByWatch.delete(wd);
    if (watchByPath.get(path) === wd) watchByPath.delete(path);
  }

  function set(wd: number, path: string): number | undefined {
    forget(wd);
    const former = watchByPath.get(path);
    pathByWatch.set(wd, path);
    watchByPath.set(path, wd);
    return former;
  }

  function isDetached(wd: number): boolean {
    const path = pathByWatch.get(wd);
    return path !== undefined && watchByPath.get(path) !== wd;
  }

  function detach(path: string): Branch {
    const prefix = path === '' ? '' : `${path}/`;
    const branch: { wd: number; below: string }[] = [];
    for (const [candidate, wd] of watchByPath) {
      if (candidate !== path && !candidate.startsWith(prefix)) continue;
      watchByPath.delete(candidate);
      branch.push({ wd, below: candidate.slice(path.length) });
    }
    return branch;
  }

  return {
    get size() {
      return pathByWatch.size;
    },
    pathOf: (wd) => pathByWatch.get(wd),
    watchOf: (path) => watchByPath.get(path),
    set,
    forget,
    isDetached,
    detach,
    attach: (branch, path) => {
      const former = detach(path).map(({ wd }) => wd);
      for (const { wd, below } of branch) {
        if (isDetached(wd)) set(wd, path + below);
      }
      return former.filter(isDetached);
    },
    clear: () => {
      const watches = [...pathByWatch.keys()];
      pathByWatch.clear();
      watchByPath.clear();
      return watches;
    },
  };
}
