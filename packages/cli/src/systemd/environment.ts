/** What of its own environment `wrenn install` gives to the services, which systemd starts with none of it. */
import { resolve } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { API_UID } from '../api-user.ts';
import { API_ENV_FILE, API_UNIT } from './units.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** That the agent, and the API, read. The API is told the agent's socket anyhow. */
const AGENT_VARIABLES = [
  'WRENN_CONFIG',
  'WRENN_DIR',
  'WRENN_IMAGES_DIR',
  'WRENN_SOCKET',
  'WRENN_DRIVER',
  'WRENN_FIRECRACKER',
  'WRENN_JAILER',
  'WRENN_LOG_LEVEL',
];
const API_VARIABLES = ['WRENN_API_CONFIG', 'E2B_DOMAIN'];
/** Services start elsewhere. */
const MAY_BE_RELATIVE = ['WRENN_CONFIG', 'WRENN_API_CONFIG'];

export interface ServiceEnvironments {
  readonly agent: Readonly<Record<string, string>>;
  readonly api: Readonly<Record<string, string>>;
}

/**
 * Throws `invalid_config` for what would hold for this command and not for the services. `apiEnvironment` is what the API's own
 * file has.
 */
export function serviceEnvironments(env: Environment, apiEnvironment: Environment): ServiceEnvironments {
  if (env.DATABASE_URL && !apiEnvironment.DATABASE_URL) {
    throw new WrennError('invalid_config', 'DATABASE_URL is set here, but not for the service.', {
      hint: `Units can be read by everybody: put it into ${API_ENV_FILE} (mode 0600), or unset it.`,
      field: 'DATABASE_URL',
    });
  }
  if (env.WRENN_SOCKET_GID && env.WRENN_SOCKET_GID !== String(API_UID)) {
    throw new WrennError(
      'invalid_config',
      `The API is in the group ${API_UID}, to which the service gives the agent's socket.`,
      { hint: 'Unset WRENN_SOCKET_GID.', field: 'WRENN_SOCKET_GID' },
    );
  }
  const carried = (names: readonly string[]) =>
    Object.fromEntries(
      names.flatMap((name) => {
        const value = env[name];
        return value ? [[name, MAY_BE_RELATIVE.includes(name) ? resolve(value) : value]] : [];
      }),
    );
  return { agent: carried(AGENT_VARIABLES), api: carried(API_VARIABLES) };
}

interface KeyCommand {
  readonly node: string;
  readonly program: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly kept: Environment;
  /** An embedded store is for one process at a time. */
  readonly isServer: boolean;
}

/** What makes a key in the service's store, in a shell of root's that has nothing of the service's environment. */
export function keyCommand({ node, program, environment, kept, isServer }: KeyCommand): string {
  // All are of letters that mean nothing to a shell: the units have them, too.
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  const file = Object.keys(kept).length > 0 ? [`--env-file=${API_ENV_FILE}`] : [];
  const command = [...variables, node, ...file, program, 'api', '--only-key', '--new-key', 'NAME'].join(' ');
  return isServer ? command : `systemctl stop ${API_UNIT}; ${command}; systemctl start ${API_UNIT}`;
}
