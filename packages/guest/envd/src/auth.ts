/**
 * The access token of this machine: who may speak to envd. Unset until the host's first /init.
 * Comparisons take the same time whatever differs. The token itself never leaves this module.
 */

export interface AccessToken {
  isSet(): boolean;
  set(token: string): void;
  /** False where no token is set. */
  matches(candidate: string | null | undefined): boolean;
  /** True where no token is set, or where the request carries the right one in X-Access-Token. */
  allows(headers: Headers): boolean;
  /** Where what follows the token and a line feed begins; undefined where no token is set or another one leads. */
  leads(bytes: Uint8Array): number | undefined;
  /** Undefined if the request may touch the file, else why it may not. */
  refuseFileAccess(headers: Headers, claim: FileAccessClaim): string | undefined;
}

/** What a /files request says of itself; each as sent, not resolved. */
export interface FileAccessClaim {
  readonly path: string;
  readonly operation: 'read' | 'write';
  readonly username: string | undefined;
  readonly signature: string | undefined;
  readonly signatureExpiration: string | undefined;
}

export const ACCESS_TOKEN_HEADER = 'X-Access-Token';

export function createAccessToken(nowMs: () => number = Date.now): AccessToken {
  let token: string | undefined;
  let line: Uint8Array | undefined;
  const matches = (candidate: string | null | undefined) =>
    token !== undefined && typeof candidate === 'string' && equalInConstantTime(token, candidate);
  return {
    isSet: () => token !== undefined,
    set: (value) => {
      token = value;
      line = Buffer.from(`${value}\n`);
    },
    matches,
    allows: (headers) => token === undefined || matches(headers.get(ACCESS_TOKEN_HEADER)),
    leads: (bytes) => {
      if (line === undefined || bytes.length < line.length) return undefined;
      // By hand: the first request of a clone, for which every function that it calls is slow.
      let difference = 0;
      for (let i = 0; i < line.length; i++) difference |= (bytes[i] ?? 0) ^ (line[i] ?? 0);
      return difference === 0 ? line.length : undefined;
    },
    refuseFileAccess: (headers, claim) => {
      if (token === undefined) return undefined;
      const sent = headers.get(ACCESS_TOKEN_HEADER);
      if (sent !== null && sent !== '') {
        return matches(sent) ? undefined : 'access token present in header but does not match';
      }
      if (claim.signature === undefined) return 'missing signature query parameter';
      if (!equalInConstantTime(fileSignature(token, claim), claim.signature)) return 'invalid signature';
      // Looked at after the signature, so that an expiry nobody has signed tells nothing.
      if (claim.signatureExpiration === undefined) return undefined;
      const expiresAtS = Number(claim.signatureExpiration);
      if (!Number.isSafeInteger(expiresAtS)) return 'invalid signature';
      return expiresAtS < nowMs() / 1000 ? 'signature is already expired' : undefined;
    },
  };
}

/** `v1_` and the unpadded base64 of sha256("path:operation:user:token[:expiration]"). */
function fileSignature(token: string, claim: FileAccessClaim): string {
  const parts = [claim.path, claim.operation, claim.username ?? '', token];
  if (claim.signatureExpiration !== undefined) parts.push(claim.signatureExpiration);
  const digest = new Bun.CryptoHasher('sha256').update(parts.join(':')).digest('base64');
  return `v1_${digest.replace(/=+$/, '')}`;
}

/** Compares digests, whose length and content say nothing of where the texts differ. */
function equalInConstantTime(a: string, b: string): boolean {
  const left = new Bun.CryptoHasher('sha256').update(a).digest();
  const right = new Bun.CryptoHasher('sha256').update(b).digest();
  let difference = 0;
  for (let i = 0; i < left.length; i++) difference |= (left[i] ?? 0) ^ (right[i] ?? 0);
  return difference === 0;
}
