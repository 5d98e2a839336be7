/** Carries a Connect call between Bun's Request and Response and connect's universal handlers. */
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import {
  universalServerRequestFromFetch,
  universalServerResponseToFetch,
} from '@connectrpc/connect/protocol';

export async function serveRpc(handler: UniversalHandler, request: Request): Promise<Response> {
  const answer = await handler(universalServerRequestFromFetch(request, { httpVersion: '1.1' }));
  return universalServerResponseToFetch(answer);
}
