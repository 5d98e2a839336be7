/** Whether systemd runs the agent that is meant. */
import { readFile } from 'node:fs/promises';
import { hasSystemd, unitState } from '@wrenn/host';
import { AGENT_UNIT, API_UNIT, unitPath } from './units.ts';

const UP = ['active', 'activating', 'reloading'];

/** True also while it is not listening yet. The service may be another agent's, with a directory of its own. */
export async function isServiceUp(socketPath: string): Promise<boolean> {
  const unit = await readFile(unitPath(API_UNIT), 'utf8').catch(() => '');
  if (!unit.split('\n').includes(`Environment=WRENN_SOCKET=${socketPath}`) || !(await hasSystemd()))
    return false;
  return await isUnitUp(AGENT_UNIT);
}

/** True also while systemd starts it, or waits to start it again. */
export async function isUnitUp(unit: string): Promise<boolean> {
  return UP.includes(await unitState(unit));
}
