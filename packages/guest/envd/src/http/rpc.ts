/** Carries a Connect call between Bun's Request and Response and connect's universal handlers. */
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import {
  universalServerRequestFromFetch,
  universalServerResponseToFetch,
} from '@connectrpc/connect/protocol';

const TIMEOUT_HEADER = 'Connect-Timeout-Ms';
/** Longer than this (24 days) no timer runs; it counts as no deadline. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;

export async function serveRpc(handler: UniversalHandler, request: Request): Promise<Response> {
  const call = universalServerRequestFromFetch(request, { httpVersion: '1.1' });
  const answer = await handler({ ...call, header: withoutEndlessDeadline(call.header) });
  return universalServerResponseToFetch(answer);
}

/** To envd's callers a deadline of 0 means none; to connect it means that it has passed. */
function withoutEndlessDeadline(headers: Headers): Headers {
  const timeout = headers.get(TIMEOUT_HEADER);
  if (timeout === null || !/^\d{1,10}$/.test(timeout)) return headers;
  const timeoutMs = Number(timeout);
  if (timeoutMs > 0 && timeoutMs <= TIMEOUT_MAX_MS) return headers;
  const rest = new Headers(headers);
  rest.delete(TIMEOUT_HEADER);
  return rest;
}
