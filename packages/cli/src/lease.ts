/**
 * Keeps a throw-away sandbox alive for as long as this program is: it is created with a short time to
 * live, which is moved on again and again. If this program is killed, the agent destroys the sandbox.
 */
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { AgentClient } from '@wrenn/agent';

export const LEASE_MS = 60_000;
const RENEW_MS = 15_000;

export function keepLease(client: AgentClient, id: string): { stop(): void } {
  const timer = setInterval(() => {
    // One that fails is followed by others before the lease ends; a lost agent ends the stream anyway.
    client.sandboxes.setSandboxTimeout({ id, timeout: durationFromMs(LEASE_MS) }).catch(() => {});
  }, RENEW_MS);
  return { stop: () => clearInterval(timer) };
}
