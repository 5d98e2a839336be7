/** What a request says of this machine's identity: every field optional, each of them checked to the last character. */

export interface IdentityRequest {
  readonly hostname: string | undefined;
  /** 32 lower-case hexadecimal digits, as machine-id(5) has them. */
  readonly machineId: string | undefined;
  readonly entropy: Uint8Array | undefined;
  /** IPv4 addresses; an empty list is one too. */
  readonly nameservers: readonly string[] | undefined;
}

/** A label of RFC 1123. Upper case is a matter of taste, and init's own names have none. */
const HOSTNAME = /^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/;
const MACHINE_ID = /^[0-9a-f]{32}$/;
/** machine-id(5): all zeros is no id. */
const NO_MACHINE_ID = '0'.repeat(32);
const ENTROPY_MIN_BYTES = 32;
const ENTROPY_MAX_BYTES = 512;
/** Resolvers read no more than three. */
const NAMESERVERS_MAX = 3;
const OCTET = '(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])';
const IPV4 = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}$`);

/** The identity, or what is wrong with it. Fields that are not known here are passed over, as in all of /init. */
export function parseIdentity(value: unknown): IdentityRequest | string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'identity is not an object';
  const fields: Readonly<Record<string, unknown>> = { ...value };
  const hostname = fields.hostname ?? undefined;
  const machineId = fields.machineId ?? undefined;
  const nameservers = parseNameservers(fields.nameservers ?? undefined);
  const entropy = parseEntropy(fields.entropy ?? undefined);
  if (hostname !== undefined && !isText(hostname, HOSTNAME)) {
    return 'identity.hostname is not a label of letters, digits and hyphens, of at most 63';
  }
  if (machineId !== undefined && (!isText(machineId, MACHINE_ID) || machineId === NO_MACHINE_ID)) {
    return 'identity.machineId is not 32 lower-case hexadecimal digits';
  }
  if (entropy === 'invalid') {
    return `identity.entropy is not base64 of ${ENTROPY_MIN_BYTES} to ${ENTROPY_MAX_BYTES} bytes`;
  }
  if (nameservers === 'invalid') {
    return `identity.nameservers is not a list of at most ${NAMESERVERS_MAX} IPv4 addresses`;
  }
  return { hostname, machineId, entropy, nameservers };
}

function isText(value: unknown, pattern: RegExp): value is string {
  return typeof value === 'string' && pattern.test(value);
}

function parseEntropy(value: unknown): Uint8Array | undefined | 'invalid' {
  if (value === undefined) return undefined;
  // Four characters for every three bytes begun.
  if (typeof value !== 'string' || value.length > Math.ceil(ENTROPY_MAX_BYTES / 3) * 4) return 'invalid';
  const bytes = Buffer.from(value, 'base64');
  // Buffer skips what is no base64; only what it would write itself is.
  if (bytes.toString('base64') !== value) return 'invalid';
  return bytes.length >= ENTROPY_MIN_BYTES && bytes.length <= ENTROPY_MAX_BYTES ? bytes : 'invalid';
}

function parseNameservers(value: unknown): readonly string[] | undefined | 'invalid' {
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || value.length > NAMESERVERS_MAX) return 'invalid';
  const addresses = value.filter((address) => isText(address, IPV4));
  return addresses.length === value.length ? addresses : 'invalid';
}
