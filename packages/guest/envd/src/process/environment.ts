/** The environment of a process: envd's defaults, then the global one, then the request's. */
import { Code, ConnectError } from '@connectrpc/connect';
import type { User } from '../sys/users.ts';

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const DEFAULT_TERM = 'xterm-256color';

export interface EnvironmentLayers {
  readonly user: User;
  /** The PATH that envd itself was started with. */
  readonly ownPath: string | undefined;
  readonly global: ReadonlyMap<string, string>;
  readonly request: Readonly<Record<string, string>>;
  readonly terminal: boolean;
}

/** Of envd's own environment only PATH is passed on. Throws `invalid_argument` for what exec cannot pass. */
export function buildEnvironment(layers: EnvironmentLayers): Record<string, string> {
  const environment = new Map<string, string>([
    ['PATH', layers.ownPath || DEFAULT_PATH],
    ['HOME', layers.user.home],
    ['USER', layers.user.name],
    ['LOGNAME', layers.user.name],
  ]);
  if (layers.terminal) environment.set('TERM', DEFAULT_TERM);
  for (const [name, value] of layers.global) environment.set(name, value);
  for (const [name, value] of Object.entries(layers.request)) {
    const problem = variableProblem(name, value);
    if (problem !== undefined) throw new ConnectError(problem, Code.InvalidArgument);
    environment.set(name, value);
  }
  return Object.fromEntries(environment);
}

/** Why no process can be given this variable; undefined if it can. */
export function variableProblem(name: string, value: string): string | undefined {
  const shown = JSON.stringify(name.slice(0, 80));
  if (name === '') return 'an environment variable has no name';
  if (name.includes('=')) return `the environment variable name ${shown} contains '='`;
  if (name.includes('\0') || value.includes('\0'))
    return `the environment variable ${shown} contains a NUL byte`;
  return undefined;
}
