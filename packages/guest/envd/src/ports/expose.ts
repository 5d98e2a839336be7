/** POST /expose: somebody outside wants to reach a port that this machine refused. */
import { parseObject, readText } from '../http/body.ts';
import { errorJson, noContent } from '../http/respond.ts';
import type { Lives } from '../lives.ts';
import { createForwarder } from './forwarder.ts';

const BODY_MAX_BYTES = 1024;
const IDLE_MS = 60_000;

/** `host` is the machine's address for the outside, `ownPort` envd's own, which is never passed on. */
export function createExpose(
  host: string,
  ownPort: number,
  lives: Lives,
): (request: Request) => Promise<Response> {
  const forwarder = createForwarder({ host, idleMs: IDLE_MS, lives });
  return async (request) => {
    const body = await readText(request, BODY_MAX_BYTES);
    const port = parseObject(body ?? '')?.port;
    if (typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > 65_535) {
      return errorJson(400, 'port is not a number from 1 to 65535');
    }
    if (port === ownPort || !(await forwarder.expose(port))) return errorJson(404, 'nothing listens there');
    return noContent();
  };
}
