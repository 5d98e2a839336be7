/** The versions of `e2b` that are tried, the public methods of each, and which of them have been called. */
import { AsyncLocalStorage } from 'node:async_hooks';

/** As the newest has it; of an older one it is asked first whether it has a method. */
export type SdkModule = typeof import('e2b');
export type Sandbox = InstanceType<SdkModule['Sandbox']>;
export type SandboxOptions = NonNullable<Parameters<SdkModule['Sandbox']['create']>[1]>;

export interface Version {
  /** Of 2; the newest is above all others. */
  readonly minor: number;
  readonly load: () => Promise<unknown>;
  /** How sandboxes are found: by E2B_SANDBOX_URL or, as before 2.14 knew it for all requests, by a domain with TLS. */
  readonly reaches: 'url' | 'domain';
  /** What is the same on the wire as with another version, and takes long. */
  readonly leaves: readonly Group[];
}

/** As methods are named. */
export type Group = 'git' | 'fork' | 'snapshot';

/** The newest first, and what marks a change: the first of 2; connect as a call; snapshots and git; HTTP/2, forks. */
export const VERSIONS: readonly Version[] = [
  { minor: Number.POSITIVE_INFINITY, load: () => import('e2b'), reaches: 'url', leaves: [] },
  { minor: 45, load: () => import('e2b-2.45'), reaches: 'url', leaves: ['git', 'fork', 'snapshot'] },
  { minor: 25, load: () => import('e2b-2.25'), reaches: 'url', leaves: ['git'] },
  { minor: 10, load: () => import('e2b-2.10'), reaches: 'domain', leaves: [] },
  { minor: 0, load: () => import('e2b-2.0'), reaches: 'domain', leaves: [] },
];

export const nameOf = ({ minor }: Version): string => (Number.isFinite(minor) ? `2.${minor}` : 'newest');

const PRIVATE = 'private or protected in its types';
const NO_VOLUMES = 'there are no volumes: that making, finding and listing them is refused clearly is tried';
const NO_SERVER = 'asks no server';
const ITS_GUEST = 'needs the template mcp-gateway';

/** What no case calls, and why. A name may end in a star. */
const EXCLUSIONS: Readonly<Record<string, string>> = {
  'Sandbox.createSandbox': PRIVATE,
  'Sandbox.connectSandbox': PRIVATE,
  'Sandbox.forkSandbox': PRIVATE,
  'Sandbox.resumeSandbox': PRIVATE,
  'Sandbox.resolveOpts': PRIVATE,
  'Sandbox#resolveApiOpts': PRIVATE,
  'Sandbox#fileUrl': PRIVATE,
  'commands#start': PRIVATE,
  'git#runGit': PRIVATE,
  'git#runShell': PRIVATE,
  'git#getRemoteUrl': PRIVATE,
  'git#resolveRemoteName': PRIVATE,
  'git#withRemoteCredentials': PRIVATE,
  'git#hasUpstream': PRIVATE,
  'handle#iterateEvents': PRIVATE,
  'handle#handleEvents': PRIVATE,
  'handle#flushDecoders': PRIVATE,
  'watch#iterateEvents': PRIVATE,
  'watch#handleEvents': PRIVATE,
  'sandboxes#updatePagination': PRIVATE,
  'snapshots#updatePagination': PRIVATE,
  'Volume.resolveOpts': PRIVATE,
  'Secret.resolveOpts': PRIVATE,
  'Template.toJSON': NO_SERVER,
  'Template.toDockerfile': NO_SERVER,
  'Volume#*': NO_VOLUMES,
  'Sandbox#getMcpToken': ITS_GUEST,
};

const excluded = (name: string): boolean =>
  Object.keys(EXCLUSIONS).some(
    (each) => each === name || (each.endsWith('*') && name.startsWith(each.slice(0, -1))),
  );

export interface Recorder {
  has(name: string): boolean;
  /** Notes from now on which methods of an object (or a class) tests call; what those call in turn does not count. */
  watch(label: string, object: object): void;
  /** The public ones that nobody has called, but for groups that are left to another version. */
  uncalled(leaves: readonly Group[]): string[];
  readonly size: number;
}

const NO_METHODS: ReadonlySet<PropertyKey> = new Set(['constructor', 'prototype', 'length', 'name']);

export function createRecorder(): Recorder {
  const known = new Set<string>();
  const called = new Set<string>();
  const wrapped = new Set<object>();
  const within = new AsyncLocalStorage<boolean>();

  const recording = (name: string, original: (...values: unknown[]) => unknown) =>
    function (this: unknown, ...values: unknown[]): unknown {
      if (within.getStore() === true) return Reflect.apply(original, this, values);
      called.add(name);
      return within.run(true, () => Reflect.apply(original, this, values));
    };

  const wrap = (label: string, holder: object): void => {
    for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(holder))) {
      if (NO_METHODS.has(name)) continue;
      const full = `${label}${name}`;
      const { value, get } = property;
      if (typeof value === 'function') {
        known.add(full);
        Object.defineProperty(holder, name, { ...property, value: recording(full, value) });
      } else if (get !== undefined) {
        known.add(full);
        Object.defineProperty(holder, name, { ...property, get: recording(full, get) });
      }
    }
  };

  return {
    has: (name) => known.has(name),
    watch: (label, object) => {
      const isClass = typeof object === 'function';
      const top = isClass ? Function.prototype : Object.prototype;
      const start: object | null = isClass ? object : Object.getPrototypeOf(object);
      for (let each = start; each !== null && each !== top; each = Object.getPrototypeOf(each)) {
        if (wrapped.has(each)) continue;
        wrapped.add(each);
        wrap(`${label}${isClass ? '.' : '#'}`, each);
      }
    },
    uncalled: (leaves) => {
      const isLeft = (name: string) => leaves.some((group) => name.toLowerCase().includes(group));
      return [...known].filter((name) => !called.has(name) && !excluded(name) && !isLeft(name)).sort();
    },
    get size() {
      return known.size;
    },
  };
}
