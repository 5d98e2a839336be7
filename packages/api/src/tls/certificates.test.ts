import { X509Certificate } from 'node:crypto';
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { apiConfigSchema } from '../config/schema.ts';
import { openAuthority } from './authority.ts';
import { type Certificates, openCertificates } from './certificates.ts';
import type { TlsPair } from './pair.ts';

let dir: string;
let logged: string[];
let open: Certificates[];
const log = {
  debug: () => {},
  info: (...said: unknown[]) => void logged.push(JSON.stringify(said)),
  warn: () => {},
  error: (...said: unknown[]) => void logged.push(JSON.stringify(said)),
};

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-tls-'));
  logged = [];
  open = [];
});
afterEach(() => {
  for (const each of open) each.close();
  rmSync(dir, { recursive: true });
});

async function opened(tls: unknown, domain?: string): Promise<Certificates> {
  const config = apiConfigSchema.parse({
    tls,
    store: { dataDir: join(dir, 'store') },
    ...(domain === undefined ? {} : { domain }),
  });
  const certificates = await openCertificates(config, log);
  if (certificates === undefined) throw new Error('no certificates');
  open.push(certificates);
  return certificates;
}

describe('a development certificate', () => {
  it('is for the domain, what is below it, and this machine, and signed by what clients are told', async () => {
    const { current, authority } = await opened('development', 'sandboxes.example.org:3000');
    const [made, ca] = [current.cert, readFileSync(authority?.certificateFile ?? '')].map(
      (pem) => new X509Certificate(pem),
    );
    if (made === undefined || ca === undefined || authority === undefined) throw new Error('not made');
    for (const host of [
      'sandboxes.example.org',
      'api.sandboxes.example.org',
      '80-x.sandboxes.example.org',
      'localhost',
    ])
      expect(made.checkHost(host), host).toBeDefined();
    expect(made.checkHost('a.b.sandboxes.example.org')).toBeUndefined();
    expect(made.checkIP('127.0.0.1')).toBeDefined();
    expect(made.ca).toBe(false);
    expect(ca.ca).toBe(true);
    expect(made.verify(ca.publicKey)).toBe(true);
    expect(readFileSync(authority.bundleFile, 'utf8')).toContain(ca.toString());
  });

  it('comes from an authority that is made once, for each domain', async () => {
    const first = await opened('development');
    const second = await opened('development');
    const other = await opened('development', 'other.localhost');
    const caOf = ({ authority }: Certificates): string =>
      readFileSync(authority?.certificateFile ?? '', 'utf8');
    expect(caOf(second)).toBe(caOf(first));
    expect(second.current.cert).not.toBe(first.current.cert);
    expect(caOf(other)).not.toBe(caOf(first));
    await expect(opened('development', 'localhost')).rejects.toMatchObject({ code: 'invalid_config' });
  });

  it('keeps its keys from others, and out of the log, and leaves nothing else', async () => {
    await opened('development');
    const place = join(dir, 'tls', 'wrenn.localhost');
    expect(readdirSync(place).sort()).toEqual(['ca-bundle.pem', 'ca.key', 'ca.pem', 'server.key']);
    for (const name of ['ca.key', 'server.key']) expect(statSync(join(place, name)).mode & 0o777).toBe(0o600);
    expect(statSync(join(place, 'ca.pem')).mode & 0o777).toBe(0o644);
    writeFileSync(join(place, 'ca.pem'), 'broken off in the mid');
    await opened('development');
    expect(new X509Certificate(readFileSync(join(place, 'ca.pem'))).ca).toBe(true);
    expect(logged).toEqual([]);
  });
});

describe('a certificate that is given', () => {
  let files: { certFile: string; keyFile: string };
  let sign: () => Promise<TlsPair>;
  const write = ({ cert, key }: Partial<TlsPair>): void => {
    // As certbot and most others do it.
    for (const [text, path] of [
      [cert, files.certFile],
      [key, files.keyFile],
    ] as const) {
      if (text === undefined) continue;
      writeFileSync(`${path}.new`, text);
      renameSync(`${path}.new`, path);
    }
  };
  beforeEach(async () => {
    files = { certFile: join(dir, 'cert.pem'), keyFile: join(dir, 'key.pem') };
    const directory = join(dir, 'given');
    ({ sign } = await openAuthority({ directory, domain: 'a.test', listenHost: '0.0.0.0' }));
    write(await sign());
  });

  it('is read again when it changes, and never before both files fit', async () => {
    const certificates = await opened({ ...files, watchIntervalMs: 20 });
    const told: TlsPair[] = [];
    certificates.onChange((pair) => told.push(pair));
    const [before, next] = [certificates.current, await sign()];
    write({ cert: next.cert });
    await expect.poll(() => logged.length).toBe(1);
    expect(certificates.current).toEqual(before);
    write({ key: next.key });
    await expect.poll(() => told).toEqual([next]);
    expect(certificates.current).toEqual(next);
    expect(logged.join('')).not.toContain('PRIVATE');
  });

  it('is read at once when that is asked for', async () => {
    const certificates = await opened({ ...files, watchIntervalMs: 3_600_000 });
    const next = await sign();
    write(next);
    await certificates.reload();
    expect(certificates.current).toEqual(next);
    rmSync(files.keyFile);
    await certificates.reload();
    expect(certificates.current).toEqual(next);
  });

  it.each([
    ['that is not there', () => rmSync(files.certFile), 'tls.certFile'],
    ['that is none', () => write({ cert: 'hello' }), 'tls.certFile'],
    ['whose key is none', () => write({ key: 'secret' }), 'tls.keyFile'],
    ['whose key is another', async () => write({ key: (await sign()).key }), 'tls.keyFile'],
  ])('%s is refused with the file at fault', async (_, spoil, field) => {
    await spoil();
    const refused = await opened(files).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: 'invalid_config', field });
    expect(String(refused)).not.toContain('secret');
  });

  it.runIf(process.getuid?.() !== 0)('that may not be read is told so', async () => {
    chmodSync(files.keyFile, 0);
    await expect(opened(files)).rejects.toMatchObject({ hint: expect.stringContaining('user') });
  });
});
