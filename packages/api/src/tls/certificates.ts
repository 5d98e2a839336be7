/** The certificate that clients are shown: given as files, or made here for development; renewed while it is used. */
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ApiConfig } from '../config/schema.ts';
import { nameOf } from '../edge/address.ts';
import type { Logger } from '../log.ts';
import { type Authority, openAuthority, SERVER_DAYS } from './authority.ts';
import { readPair, type TlsPair } from './pair.ts';

export interface Certificates {
  readonly current: TlsPair;
  /** What clients must be told to trust; undefined where that is not known here. */
  readonly authority: Pick<Authority, 'certificateFile' | 'bundleFile'> | undefined;
  onChange(listener: (pair: TlsPair) => void): void;
  /** Looks at once whether there is another one. Never throws: what cannot be used is logged, the old one kept. */
  reload(): Promise<void>;
  close(): void;
}

/** The domain of a development certificate, unless another one is configured. */
export const DEVELOPMENT_DOMAIN = 'wrenn.localhost';
const RENEWAL_INTERVAL_MS = 60 * 60 * 1000;
const RENEW_AFTER_MS = (SERVER_DAYS / 2) * 24 * 60 * 60 * 1000;

/** Undefined where TLS is off. Throws `invalid_config`. */
export async function openCertificates(
  config: Pick<ApiConfig, 'tls' | 'domain' | 'listen' | 'store'>,
  log: Logger,
): Promise<Certificates | undefined> {
  const { tls } = config;
  if (tls === undefined) return undefined;
  if (tls === 'development') {
    const authority = await openAuthority({
      directory: join(dirname(config.store.dataDir), 'tls'),
      domain: nameOf(config.domain ?? DEVELOPMENT_DOMAIN),
      listenHost: config.listen.host,
    });
    let signedAt = Date.now();
    const first = await authority.sign();
    return renewed(
      first,
      async () => {
        if (Date.now() - signedAt < RENEW_AFTER_MS) return undefined;
        const pair = await authority.sign();
        signedAt = Date.now();
        return pair;
      },
      { intervalMs: RENEWAL_INTERVAL_MS, log, authority },
    );
  }
  const { certFile, keyFile } = tls;
  let seen = await stateOf(certFile, keyFile);
  const first = await readPair(certFile, keyFile);
  return renewed(
    first,
    async () => {
      const now = await stateOf(certFile, keyFile);
      if (now === seen) return undefined;
      const pair = await readPair(certFile, keyFile);
      seen = now;
      return pair;
    },
    { intervalMs: tls.watchIntervalMs, log, authority: undefined },
  );
}

interface RenewalOptions {
  readonly intervalMs: number;
  readonly log: Logger;
  readonly authority: Authority | undefined;
}

function renewed(
  first: TlsPair,
  next: () => Promise<TlsPair | undefined>,
  { intervalMs, log, authority }: RenewalOptions,
): Certificates {
  const listeners = new Set<(pair: TlsPair) => void>();
  let current = first;
  let running: Promise<void> | undefined;
  let complaint = '';
  const look = async (): Promise<void> => {
    try {
      const pair = await next();
      complaint = '';
      // The files may have been written between the look at them and their reading: the next look finds them again.
      if (pair === undefined || (pair.cert === current.cert && pair.key === current.key)) return;
      current = pair;
      for (const listener of listeners) listener(pair);
      log.info('the certificate was renewed');
    } catch (error) {
      // The two files are rarely written at the same moment, and a broken one stays broken: said once.
      const said = error instanceof Error ? error.message : String(error);
      if (said !== complaint)
        log.error({ err: error }, 'the certificate was not renewed, the old one is kept');
      complaint = said;
    }
  };
  const reload = async (): Promise<void> => {
    running ??= look().finally(() => {
      running = undefined;
    });
    await running;
  };
  const timer = setInterval(() => void reload(), intervalMs);
  timer.unref();
  return {
    get current() {
      return current;
    },
    authority,
    onChange: (listener) => void listeners.add(listener),
    reload,
    close: () => clearInterval(timer),
  };
}

/** Other bytes have another state, whether written over, renamed or linked. */
async function stateOf(...paths: readonly string[]): Promise<string> {
  const states = await Promise.all(
    paths.map(async (path) => {
      const { ino, size, mtimeMs } = await stat(path);
      return [ino, size, mtimeMs].join(' ');
    }),
  ).catch(() => ['unreadable']);
  return states.join('\n');
}
