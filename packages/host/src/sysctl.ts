/** The kernel's network settings, below /proc/sys/net. Which namespace is meant depends on who opens the file. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { type runCommand as RunCommand, runCommand } from './command.ts';
import { hasErrno } from './errno.ts';
import { NETNS_DIR } from './ip.ts';
import { checkNetnsName } from './ip-command.ts';

const TIMEOUT_MS = 15_000;
/** A part may hold dots (`eth0.100`), which is why a name is given in parts. */
const PART = /^[A-Za-z0-9_][A-Za-z0-9_.@:-]*$/;

/** As `['ipv4', 'conf', 'eth0', 'forwarding']`. */
export type NetSysctlName = readonly string[];

export interface NetSysctl {
  /** In this process's own network namespace. Undefined when there is no such setting. */
  read(name: NetSysctlName): Promise<string | undefined>;
  write(name: NetSysctlName, value: string): Promise<void>;
  /** In a named namespace. */
  writeIn(netns: string, name: NetSysctlName, value: string, signal?: AbortSignal): Promise<void>;
}

export function netSysctlPath(name: NetSysctlName): string {
  for (const part of name) {
    if (PART.test(part)) continue;
    throw new WrennError('invalid_argument', `${JSON.stringify(part.slice(0, 60))} is no part of a sysctl.`);
  }
  return join('/proc/sys/net', ...name);
}

export function createNetSysctl(run: typeof RunCommand = runCommand): NetSysctl {
  return {
    read: async (name) => {
      try {
        return (await readFile(netSysctlPath(name), 'utf8')).trim();
      } catch (error) {
        if (hasErrno(error, 'ENOENT')) return undefined;
        throw error;
      }
    },
    write: (name, value) => writeFile(netSysctlPath(name), value, { flag: 'r+' }),
    writeIn: async (netns, name, value, signal) => {
      const args = [`--net=${join(NETNS_DIR, checkNetnsName(netns))}`, 'tee', netSysctlPath(name)];
      await run('nsenter', args, { timeoutMs: TIMEOUT_MS, input: value, signal });
    },
  };
}
