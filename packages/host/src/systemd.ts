/** systemd's own programs, typed. Whether there is a manager to talk to is for `hasSystemd` to say. */
import { access } from 'node:fs/promises';
import { runCommand } from './command.ts';

/** A stop takes as long as the units' own time-outs, one after the other. */
const ACTION_TIMEOUT_MS = 180_000;
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
  await runCommand('systemctl', [action, '--', ...units], { timeoutMs: ACTION_TIMEOUT_MS });
}

export async function reloadUnits(): Promise<void> {
  await runCommand('systemctl', ['daemon-reload'], { timeoutMs: TIMEOUT_MS });
}

/** What `systemctl is-active` says: active, inactive, failed, … */
export async function unitState(unit: string): Promise<string> {
  return await unitProperty(unit, 'ActiveState');
}

/** The process that a service is at the moment; 0 for none. */
export async function unitMainPid(unit: string): Promise<number> {
  return Number(await unitProperty(unit, 'MainPID')) || 0;
}

async function unitProperty(unit: string, name: string): Promise<string> {
  const words = ['show', `--property=${name}`, '--value', '--', unit];
  const { stdout } = await runCommand('systemctl', words, { timeoutMs: TIMEOUT_MS });
  return stdout.trim();
}

/** Makes the users that a file of sysusers.d(5) names, unless they are there. */
export async function makeUsers(file: string): Promise<void> {
  await runCommand('systemd-sysusers', [file], { timeoutMs: TIMEOUT_MS });
}
