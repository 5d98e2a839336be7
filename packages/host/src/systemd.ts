/** systemd's own programs, typed. Whether there is a manager to talk to is for `hasSystemd` to say. */
import { access } from 'node:fs/promises';
import { runCommand } from './command.ts';

const TIMEOUT_MS = 90_000;

/** As sd_booted(3) tells it: systemd is the machine's init. */
export async function hasSystemd(): Promise<boolean> {
  return await access('/run/systemd/system').then(
    () => true,
    () => false,
  );
}

export type UnitAction = 'enable' | 'disable' | 'restart' | 'stop';

export async function systemctl(action: UnitAction, units: readonly string[]): Promise<void> {
  await runCommand('systemctl', [action, '--', ...units], { timeoutMs: TIMEOUT_MS });
}

export async function reloadUnits(): Promise<void> {
  await runCommand('systemctl', ['daemon-reload'], { timeoutMs: TIMEOUT_MS });
}

/** What `systemctl is-active` says: active, inactive, failed, … */
export async function unitState(unit: string): Promise<string> {
  const { stdout } = await runCommand(
    'systemctl',
    ['show', '--property=ActiveState', '--value', '--', unit],
    { timeoutMs: TIMEOUT_MS },
  );
  return stdout.trim();
}

/** Makes the users that a file of sysusers.d(5) names, unless they are there. */
export async function makeUsers(file: string): Promise<void> {
  await runCommand('systemd-sysusers', [file], { timeoutMs: TIMEOUT_MS });
}
