/** Who the API is when root starts it, and how the agent lets it in. */
import { chmodSync, chownSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import type { AgentConfig } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';

/** A user and a group of its own, which nothing else uses; `wrenn install` gives it a name. */
export const API_UID = 1_899_999_999;

/**
 * Makes a directory the API's own, for what it keeps. One that is there and has something in it must be its own already:
 * a path with a part too few would give it another one, /var/lib for instance. For root.
 */
export function giveToApi(directory: string, uid = API_UID): void {
  const isNew = mkdirSync(directory, { recursive: true }) !== undefined;
  if (!isNew && statSync(directory).uid !== uid && readdirSync(directory).length > 0) {
    throw new WrennError('invalid_config', `${directory} is not the API's, and not empty.`, {
      field: 'store.dataDir',
      hint: `store.dataDir lies in a directory of the API's own, as /var/lib/wrenn/api; one that it had before is made its own by \`chown -R ${uid}:${uid} ${directory}\`.`,
    });
  }
  chownSync(directory, uid, uid);
  chmodSync(directory, 0o711);
}

/** For an agent's environment: the API's group may use its socket, unless the configuration names another one. */
export function letApiIn({ server }: AgentConfig): Record<string, string> {
  return server.socketGid === undefined ? { WRENN_SOCKET_GID: String(API_UID) } : {};
}
