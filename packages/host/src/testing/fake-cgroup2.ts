/** A kernel's version 2 hierarchy in memory, with the rules that matter; and one mountinfo to find it by. */
import { dirname, join } from 'node:path';
import type { CgroupFiles } from '../cgroup-files.ts';

export interface FakeCgroup2 {
  readonly files: CgroupFiles;
  /** Every file by its path. */
  readonly contents: Map<string, string>;
}

export interface FakeCgroup2Options {
  readonly controllers?: string;
  /** What a container sees as its root: not the true one. */
  readonly inContainer?: boolean;
  /** In the root. */
  readonly processes?: readonly number[];
  readonly mountOptions?: string;
}

const ROOT = '/sys/fs/cgroup';
const LIMITS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  memory: { 'memory.max': 'max', 'memory.swap.max': 'max', 'memory.oom.group': '0', 'memory.events': '' },
  cpu: { 'cpu.max': 'max 100000' },
  pids: { 'pids.max': 'max' },
};

export function createFakeCgroup2(options: FakeCgroup2Options = {}): FakeCgroup2 {
  const { controllers = 'cpuset cpu io memory hugetlb pids', processes = [1], mountOptions = 'rw' } = options;
  const contents = new Map<string, string>([
    ['/proc/self/mountinfo', `31 23 0:27 / ${ROOT} ${mountOptions},nosuid - cgroup2 cgroup2 rw\n`],
    [join(ROOT, 'cgroup.controllers'), controllers],
    [join(ROOT, 'cgroup.subtree_control'), ''],
    [join(ROOT, 'cgroup.procs'), processes.join('\n')],
    ...(options.inContainer === true ? [[join(ROOT, 'cgroup.type'), 'domain'] as const] : []),
  ]);
  const get = (path: string): string => contents.get(path) ?? '';
  const isGroup = (path: string): boolean => contents.has(join(path, 'cgroup.procs'));
  const childrenOf = (path: string): string[] =>
    [...contents.keys()].filter((file) => file.endsWith('/cgroup.procs') && dirname(dirname(file)) === path);

  const handDown = (group: string, words: readonly string[]): void => {
    const isTrueRoot = !contents.has(join(group, 'cgroup.type'));
    if (!isTrueRoot && get(join(group, 'cgroup.procs')) !== '') throw failure('EBUSY');
    for (const word of words) {
      const controller = word.slice(1);
      if (!word.startsWith('+')) throw failure('EINVAL');
      if (!get(join(group, 'cgroup.controllers')).split(' ').includes(controller)) throw failure('ENOENT');
      const path = join(group, 'cgroup.subtree_control');
      contents.set(path, `${get(path)} ${controller}`.trim());
      for (const child of childrenOf(group)) addController(dirname(child), controller);
    }
  };
  const addController = (group: string, controller: string): void => {
    const path = join(group, 'cgroup.controllers');
    contents.set(path, `${get(path)} ${controller}`.trim());
    for (const [file, value] of Object.entries(LIMITS[controller] ?? {}))
      contents.set(join(group, file), value);
  };

  const files: CgroupFiles = {
    read: async (path) => contents.get(path),
    mayChange: async () => true,
    directoriesIn: async (path) => childrenOf(path).map((file) => dirname(file).slice(path.length + 1)),
    write: async (path, value) => {
      if (!contents.has(path)) throw failure('ENOENT');
      if (path.endsWith('/cgroup.subtree_control')) return handDown(dirname(path), value.split(' '));
      if (!path.endsWith('/cgroup.procs')) return void contents.set(path, value);
      // The "no internal processes" rule.
      if (get(join(dirname(path), 'cgroup.subtree_control')) !== '') throw failure('EBUSY');
      contents.set(path, `${get(path)}${value}\n`);
    },
    makeDirectory: async (path) => {
      if (isGroup(path)) throw failure('EEXIST');
      if (!isGroup(dirname(path))) throw failure('ENOENT');
      for (const file of ['cgroup.procs', 'cgroup.subtree_control', 'cgroup.controllers']) {
        contents.set(join(path, file), '');
      }
      contents.set(join(path, 'cgroup.type'), 'domain');
      const handedDown = get(join(dirname(path), 'cgroup.subtree_control'));
      for (const controller of handedDown.split(' ').filter(Boolean)) addController(path, controller);
    },
    removeDirectory: async (path) => {
      if (!isGroup(path)) throw failure('ENOENT');
      if (get(join(path, 'cgroup.procs')) !== '' || childrenOf(path).length > 0) throw failure('EBUSY');
      for (const file of [...contents.keys()]) if (dirname(file) === path) contents.delete(file);
    },
  };
  return { files, contents };
}

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}
