/** A certificate and its key, looked at before they are used. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { open } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { hasErrno } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

/** PEM. */
export interface TlsPair {
  readonly cert: string;
  readonly key: string;
}

const MAX_BYTES = 1024 * 1024;

/** Throws `invalid_config`, with the file at fault; never with what is in it. */
export async function readPair(certFile: string, keyFile: string): Promise<TlsPair> {
  const pair = { cert: await read(certFile, 'tls.certFile'), key: await read(keyFile, 'tls.keyFile') };
  const matches = attempt(
    () => {
      createSecureContext({ cert: pair.cert });
      return new X509Certificate(pair.cert);
    },
    `${certFile} is no certificate in PEM.`,
    'tls.certFile',
  ).checkPrivateKey(
    attempt(() => createPrivateKey(pair.key), `${keyFile} is no private key in PEM.`, 'tls.keyFile'),
  );
  if (!matches) throw wrong(`The key in ${keyFile} is not that of ${certFile}.`, 'tls.keyFile');
  return pair;
}

async function read(path: string, field: string): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      if (size > MAX_BYTES) throw wrong(`${path} is too large.`, field);
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (cause instanceof WrennError) throw cause;
    const isDenied = hasErrno(cause, 'EACCES');
    const user = `The API runs as user ${process.geteuid?.() ?? '?'}, which`;
    throw wrong(
      `${path} cannot be read.`,
      field,
      isDenied ? `${user} must be let read it: a copy of its own, say.` : undefined,
      cause,
    );
  }
}

function attempt<T>(look: () => T, message: string, field: string): T {
  try {
    return look();
  } catch {
    // What OpenSSL says could have some of the file in it.
    throw wrong(message, field);
  }
}

function wrong(message: string, field: string, hint?: string, cause?: unknown): WrennError {
  return new WrennError('invalid_config', message, { field, cause, ...(hint === undefined ? {} : { hint }) });
}
