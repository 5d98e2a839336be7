import type { Settings } from '../context.ts';
import { json } from './respond.ts';

/** GET /envs: the global environment, as set by /init. */
export function envs(settings: Settings): Response {
  return json(Object.fromEntries(settings.globalEnv));
}
