/** Who may reach what of a sandbox. Asked before one that sleeps is woken, too. */
import { timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { ENVD_PORT } from '@wrenn/protocol';
import type { EdgeAccess } from '../directory.ts';
import { type EdgeAnswer, needsToken, noSuchPath } from './answers.ts';

/** Everything else of envd's is the host agent's business: /init, /quiesce, and what may come. */
const ENVD_PATHS =
  /^\/(?:health|envs|metrics|files(?:\/[^/]*)?|(?:process\.Process|filesystem\.Filesystem)\/\w+)$/;

/** Undefined where it may pass. `url` is as the client sent it. */
export function refusal(
  { sandboxId, trafficToken }: EdgeAccess,
  port: number,
  url: string,
  headers: IncomingHttpHeaders,
): EdgeAnswer | undefined {
  if (port === ENVD_PORT) return ENVD_PATHS.test(pathOf(url)) ? undefined : noSuchPath(sandboxId);
  if (trafficToken === undefined) return undefined;
  const shown = headers['e2b-traffic-access-token'];
  return typeof shown === 'string' && isSame(shown, trafficToken) ? undefined : needsToken(sandboxId);
}

/** As envd itself will read it; empty for what is none. */
function pathOf(url: string): string {
  // An absolute form would name another host.
  if (!url.startsWith('/') || url.startsWith('//')) return '';
  try {
    return new URL(url, 'http://envd').pathname;
  } catch {
    return '';
  }
}

function isSame(shown: string, expected: string): boolean {
  const [a, b] = [Buffer.from(shown), Buffer.from(expected)];
  return a.length === b.length && timingSafeEqual(a, b);
}
