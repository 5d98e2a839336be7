/** A certificate authority for development, kept in a directory of its own, and what it signs. */
import { createPrivateKey, generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { makeAuthority, makeServerCertificate, writeFileDurably } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { TlsPair } from './pair.ts';

const DAY_MS = 24 * 60 * 60 * 1000;
const AUTHORITY_DAYS = 3650;
export const SERVER_DAYS = 60;
const SYSTEM_AUTHORITIES = '/etc/ssl/certs/ca-certificates.crt';

export interface Authority {
  /** The certificate, for clients that can be told of more than they trust already. */
  readonly certificateFile: string;
  /** It and all that this machine trusts, for clients that can be told of one file alone. */
  readonly bundleFile: string;
  sign(): Promise<TlsPair>;
}

export interface AuthorityOptions {
  /** The authority's own from now on. */
  readonly directory: string;
  /** Without a port. */
  readonly domain: string;
  readonly listenHost: string;
}

/** Made once; later ones find it. Its key never leaves the directory. */
export async function openAuthority({ directory, domain, listenHost }: AuthorityOptions): Promise<Authority> {
  if (!domain.includes('.')) {
    throw new WrennError('invalid_config', `Clients take no certificate for *.${domain}.`, {
      hint: 'Use a domain with a dot in it, as wrenn.localhost.',
      field: 'domain',
    });
  }
  // One for each domain: it can vouch for that one alone.
  const place = join(directory, domain);
  const file = (name: string): string => join(place, name);
  const [certificateFile, keyFile, bundleFile] = [file('ca.pem'), file('ca.key'), file('ca-bundle.pem')];
  try {
    await mkdir(place, { recursive: true, mode: 0o755 });
    if (!(await isUsable(certificateFile, keyFile))) {
      await writeFileDurably(keyFile, newKey(), { mode: 0o600 });
      const made = await makeAuthority({
        commonName: `Wrenn development ${randomBytes(4).toString('hex')}`,
        keyFile,
        days: AUTHORITY_DAYS,
        directory: place,
        permittedNames: [domain, 'localhost'],
      });
      await writeFileDurably(certificateFile, made, { mode: 0o644 });
    }
    const others = await readFile(SYSTEM_AUTHORITIES, 'utf8').catch(() => '');
    await writeFileDurably(bundleFile, `${await readFile(certificateFile, 'utf8')}${others}`, {
      mode: 0o644,
    });
  } catch (cause) {
    if (cause instanceof WrennError) throw cause;
    throw new WrennError('invalid_config', `No certificate authority can be kept in ${place}.`, {
      hint: 'The directory must belong to the user that the API runs as.',
      cause,
    });
  }
  const isOfOneAddress = isIP(listenHost) !== 0 && !['0.0.0.0', '::'].includes(listenHost);
  const addresses = new Set(['127.0.0.1', '::1', ...(isOfOneAddress ? [listenHost] : [])]);
  return {
    certificateFile,
    bundleFile,
    sign: async () => {
      const serverKeyFile = file('server.key');
      const key = newKey();
      await writeFileDurably(serverKeyFile, key, { mode: 0o600 });
      const cert = await makeServerCertificate({
        commonName: `Wrenn at ${domain}`.slice(0, 60),
        keyFile: serverKeyFile,
        days: SERVER_DAYS,
        directory: place,
        names: [domain, `*.${domain}`, 'localhost'],
        addresses: [...addresses],
        authorityFile: certificateFile,
        authorityKeyFile: keyFile,
      });
      return { cert, key };
    },
  };
}

function newKey(): string {
  return generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  }).privateKey;
}

/** A half written one is not, and neither is one that ends before what it signs. */
async function isUsable(certificateFile: string, keyFile: string): Promise<boolean> {
  try {
    const certificate = new X509Certificate(await readFile(certificateFile));
    const key = createPrivateKey(await readFile(keyFile));
    const endsAt = Date.parse(certificate.validTo);
    return certificate.checkPrivateKey(key) && endsAt > Date.now() + 2 * SERVER_DAYS * DAY_MS;
  } catch {
    return false;
  }
}
