/** Reads the configuration: a file, then the environment over it, checked once. */
import { readFileSync } from 'node:fs';
import { WrennError } from '@wrenn/protocol';
import { type AgentConfig, configSchema } from './schema.ts';

export const DEFAULT_CONFIG_FILE = '/etc/wrenn/config.json';
const FILE_MAX_BYTES = 1024 * 1024;

/** Environment variables that stand above the file, and the field each of them sets. */
const OVERRIDES = {
  WRENN_DIR: 'wrennDir',
  WRENN_IMAGES_DIR: 'imagesDir',
  WRENN_SOCKET: 'socketPath',
  WRENN_DRIVER: 'driver',
} as const;

/**
 * From the file that `WRENN_CONFIG` names (which must exist) or /etc/wrenn/config.json (which need not),
 * and the variables WRENN_DIR, WRENN_IMAGES_DIR, WRENN_SOCKET, WRENN_DRIVER, WRENN_SOCKET_GID and WRENN_LOG_LEVEL
 * over it.
 * Throws `invalid_config` with the field at fault.
 */
export function loadConfig(env: Readonly<Record<string, string | undefined>> = process.env): AgentConfig {
  const named = nonEmpty(env.WRENN_CONFIG);
  const file = named ?? DEFAULT_CONFIG_FILE;
  const settings = readConfigFile(file, named !== undefined);
  for (const [variable, field] of Object.entries(OVERRIDES)) {
    const value = nonEmpty(env[variable]);
    if (value !== undefined) settings[field] = value;
  }
  const level = nonEmpty(env.WRENN_LOG_LEVEL);
  if (level !== undefined) {
    const { log } = settings;
    settings.log = { ...(typeof log === 'object' ? log : {}), level };
  }
  const gid = nonEmpty(env.WRENN_SOCKET_GID);
  if (gid !== undefined) {
    const { server } = settings;
    settings.server = { ...(typeof server === 'object' ? server : {}), socketGid: Number(gid) };
  }
  return parseConfig(settings, `the configuration (${file} and the environment)`);
}

/** Checks settings and fills in the defaults. `source` is named in the error. */
export function parseConfig(settings: unknown, source = 'the configuration'): AgentConfig {
  const parsed = configSchema.safeParse(settings);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.') ?? '';
  const where = field === '' ? '' : ` \`${field}\``;
  throw new WrennError(
    'invalid_config',
    `Something in ${source} is wrong:${where} ${issue?.message ?? ''}.`,
    {
      hint: 'packages/agent/src/config/schema.ts lists every field, with its unit and its limits.',
      ...(field === '' ? {} : { field }),
      cause: parsed.error,
    },
  );
}

function readConfigFile(file: string, required: boolean): Record<string, unknown> {
  const text = readIfThere(file, required);
  if (text === undefined) return {};
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  } catch (error) {
    throw new WrennError('invalid_config', `${file} is not valid JSON.`, { cause: error });
  }
  throw new WrennError('invalid_config', `${file} does not hold a JSON object.`);
}

function readIfThere(file: string, required: boolean): string | undefined {
  try {
    const bytes = readFileSync(file);
    if (bytes.length <= FILE_MAX_BYTES) return bytes.toString('utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' && !required) return undefined;
    throw new WrennError('invalid_config', `${file} cannot be read (${String(code)}).`, { cause: error });
  }
  throw new WrennError('invalid_config', `${file} is larger than ${FILE_MAX_BYTES} bytes.`);
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === undefined || value === '' ? undefined : value;
}
