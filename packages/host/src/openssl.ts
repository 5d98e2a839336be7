/** Certificates, signed by the `openssl` program. Keys are made by the caller and lie in files of its own. */
import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { runCommand } from './command.ts';

const TIMEOUT_MS = 20_000;
/** What may stand in openssl's configuration without any meaning there. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9 .-]{0,62}$/;
const DNS_NAME = /^(?:\*\.)?[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?$/;
const ADDRESS = /^[0-9a-f.:]{2,45}$/;

interface Common {
  readonly commonName: string;
  readonly keyFile: string;
  readonly days: number;
  /** For a configuration file that is gone afterwards. */
  readonly directory: string;
  readonly signal?: AbortSignal;
}

export interface AuthorityRequest extends Common {
  /** It can vouch for these names and those below them, and for no others. */
  readonly permittedNames: readonly string[];
}

export interface ServerRequest extends Common {
  readonly names: readonly string[];
  readonly addresses: readonly string[];
  readonly authorityFile: string;
  readonly authorityKeyFile: string;
}

/** A certificate that signs others, as PEM. */
export async function makeAuthority(request: AuthorityRequest): Promise<string> {
  const permitted = request.permittedNames.map(
    (name, index) => `permitted;DNS.${index} = ${checked(name, DNS_NAME)}`,
  );
  return await signed(
    request,
    [],
    [
      'basicConstraints = critical, CA:TRUE, pathlen:0',
      'keyUsage = critical, keyCertSign, cRLSign',
      'subjectKeyIdentifier = hash',
      'nameConstraints = critical, @permitted',
      '[permitted]',
      ...permitted,
    ],
  );
}

/** A server's certificate, as PEM, without that of the authority. */
export async function makeServerCertificate(request: ServerRequest): Promise<string> {
  return await signed(
    request,
    ['-CA', request.authorityFile, '-CAkey', request.authorityKeyFile],
    [
      'basicConstraints = critical, CA:FALSE',
      'keyUsage = critical, digitalSignature',
      'extendedKeyUsage = serverAuth',
      'subjectKeyIdentifier = hash',
      'authorityKeyIdentifier = keyid',
      'subjectAltName = @names',
      '[names]',
      ...request.names.map((name, index) => `DNS.${index} = ${checked(name, DNS_NAME)}`),
      ...request.addresses.map((address, index) => `IP.${index} = ${checked(address, ADDRESS)}`),
    ],
  );
}

async function signed(
  { commonName, keyFile, days, directory, signal }: Common,
  by: readonly string[],
  extensions: readonly string[],
): Promise<string> {
  const configFile = `${directory}/${randomUUID()}.cnf`;
  const lines = [
    '[req]',
    'prompt = no',
    'distinguished_name = subject',
    'x509_extensions = extensions',
    '[subject]',
    `CN = ${checked(commonName, NAME)}`,
    '[extensions]',
    ...extensions,
    '',
  ];
  try {
    await writeFile(configFile, lines.join('\n'), { flag: 'wx', mode: 0o600 });
    const { stdout } = await runCommand(
      'openssl',
      [
        'req',
        '-x509',
        '-new',
        '-sha256',
        '-config',
        configFile,
        '-key',
        keyFile,
        '-days',
        String(days),
        ...by,
      ],
      { timeoutMs: TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) },
    );
    return stdout;
  } finally {
    await rm(configFile, { force: true });
  }
}

function checked(text: string, pattern: RegExp): string {
  if (pattern.test(text)) return text;
  throw new TypeError(`${JSON.stringify(text)} cannot stand in a certificate.`);
}
