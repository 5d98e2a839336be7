/**
 * Which watch stands for which directory of a watched tree, by paths relative to its root ('' is the
 * root). Watches follow a directory when it is renamed, paths do not: `move` carries them along.
 */
export interface WatchedTree {
  readonly size: number;
  pathOf(wd: number): string | undefined;
  watchOf(path: string): number | undefined;
  set(wd: number, path: string): void;
  forget(wd: number): void;
  /** Whatever had the new path before is forgotten. */
  move(from: string, to: string): void;
  /** Forgets the directory and all below it; tells their watches. */
  cut(path: string): number[];
}

export function createWatchedTree(): WatchedTree {
  const pathByWatch = new Map<number, string>();
  const watchByPath = new Map<string, number>();

  function forget(wd: number): void {
    const path = pathByWatch.get(wd);
    if (path === undefined) return;
    pathByWatch.delete(wd);
    if (watchByPath.get(path) === wd) watchByPath.delete(path);
  }

  function set(wd: number, path: string): void {
    forget(wd);
    const former = watchByPath.get(path);
    if (former !== undefined) pathByWatch.delete(former);
    pathByWatch.set(wd, path);
    watchByPath.set(path, wd);
  }

  function below(path: string): [path: string, wd: number][] {
    const prefix = path === '' ? '' : `${path}/`;
    return [...watchByPath].filter(([candidate]) => candidate === path || candidate.startsWith(prefix));
  }

  function cut(path: string): number[] {
    const watches = below(path).map(([, wd]) => wd);
    for (const wd of watches) forget(wd);
    return watches;
  }

  return {
    get size() {
      return pathByWatch.size;
    },
    pathOf: (wd) => pathByWatch.get(wd),
    watchOf: (path) => watchByPath.get(path),
    set,
    forget,
    move: (from, to) => {
      const moved = below(from);
      for (const [, wd] of moved) forget(wd);
      cut(to);
      for (const [path, wd] of moved) set(wd, to + path.slice(from.length));
    },
    cut,
  };
}
