/** Which sandbox and port a request is for. Nothing here looks at whether there is such a sandbox. */
import type { IncomingHttpHeaders } from 'node:http';

export interface EdgeAddress {
  readonly sandboxId: string;
  readonly port: number;
}

export interface AddressedRequest {
  /** `Host`, or `:authority`. */
  readonly host: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

const PORT_MAX = 65_535;
const HOST_MAX_CHARS = 300;
/** A sandbox id may be followed by a client id, which means nothing here. */
const LABEL = /^(\d{1,5})-([a-z0-9]{1,64})(?:-[a-z0-9]{1,64})?$/;
const ID = /^([a-z0-9]{1,64})(?:-[a-z0-9]{1,64})?$/;

/**
 * By the host's name, `<port>-<id>.<domain>`, else by the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`, for clients
 * that reach the edge by an address. Undefined for a request that is not for a sandbox.
 */
export function addressOf({ host, headers }: AddressedRequest, domain: string): EdgeAddress | undefined {
  return byName(host, domain) ?? byHeaders(headers);
}

function byName(host: string | undefined, domain: string): EdgeAddress | undefined {
  if (host === undefined || host.length > HOST_MAX_CHARS) return undefined;
  const name = host
    .toLowerCase()
    .replace(/:\d{1,5}$/, '')
    .replace(/\.$/, '');
  const suffix = `.${nameOf(domain)}`;
  if (!name.endsWith(suffix)) return undefined;
  const found = LABEL.exec(name.slice(0, -suffix.length));
  return found === null ? undefined : checked(found[2], found[1]);
}

function byHeaders(headers: IncomingHttpHeaders): EdgeAddress | undefined {
  const [id, port] = [headers['e2b-sandbox-id'], headers['e2b-sandbox-port']];
  if (typeof id !== 'string' || typeof port !== 'string' || !/^\d{1,5}$/.test(port)) return undefined;
  return checked(ID.exec(id)?.[1], port);
}

function checked(sandboxId: string | undefined, portText: string | undefined): EdgeAddress | undefined {
  const port = Number(portText);
  if (sandboxId === undefined || !Number.isInteger(port) || port < 1 || port > PORT_MAX) return undefined;
  return { sandboxId, port };
}

/** A domain may be given with the port that clients use. */
export function nameOf(domain: string): string {
  return domain.toLowerCase().replace(/:\d{1,5}$/, '');
}
