import type { Activity } from '../activity.ts';
import { json } from './respond.ts';

/** GET /logs: Wrenn's own, for the API. */
export function logs(activity: Activity): Response {
  return json({ entries: activity.entries() });
}
