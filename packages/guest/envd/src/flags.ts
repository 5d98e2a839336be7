/** The command line: `--name value` or `--name`, nothing else. (node:util's parser costs 2 ms of start-up.) */
import { ENVD_PORT, GUEST_ADDRESS } from '@wrenn/protocol';

export interface Flags {
  readonly host: string;
  readonly port: number;
  /** This machine's address for the outside. */
  readonly exposeHost: string;
  readonly defaultUser: string;
  readonly setClock: boolean;
  /** Whether requests may change the machine: its name, its identity, its page cache. */
  readonly ownMachine: boolean;
}

/** The flags, or what is wrong with them. */
export function parseFlags(args: readonly string[]): Flags | string {
  const flags = {
    host: '0.0.0.0',
    port: ENVD_PORT,
    exposeHost: GUEST_ADDRESS,
    defaultUser: 'user',
    setClock: false,
    ownMachine: false,
  };
  for (let i = 0; i < args.length; i++) {
    const flag = args[i];
    // Off unless asked for: a test on a developer's machine must never touch its clock or its name.
    if (flag === '--set-clock') {
      flags.setClock = true;
      continue;
    }
    if (flag === '--own-machine') {
      flags.ownMachine = true;
      continue;
    }
    const value = args[++i];
    if (value === undefined || value === '') return `${flag} needs a value`;
    switch (flag) {
      case '--host':
        flags.host = value;
        break;
      case '--port':
        if (!/^\d{1,5}$/.test(value) || Number(value) > 65535) return `${value} is not a port`;
        flags.port = Number(value);
        break;
      case '--expose-host':
        flags.exposeHost = value;
        break;
      case '--default-user':
        flags.defaultUser = value;
        break;
      default:
        return `there is no flag ${flag}`;
    }
  }
  return flags;
}
