/** Who the API is when root starts it, and how the agent lets it in. */
import type { AgentConfig } from '@wrenn/agent';

/** A user and a group of its own, which nothing else uses; `wrenn install` gives it a name. */
export const API_UID = 1_899_999_999;

/** For an agent's environment: the API's group may use its socket, unless the configuration names another one. */
export function letApiIn({ server }: AgentConfig): Record<string, string> {
  return server.socketGid === undefined ? { WRENN_SOCKET_GID: String(API_UID) } : {};
}
