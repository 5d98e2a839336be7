/** The part of pino that the API uses, so that tests can give something smaller. */

import { createStderrSink } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type Logger as PinoLogger, pino, stdSerializers } from 'pino';

export type Logger = Pick<PinoLogger, 'debug' | 'info' | 'warn' | 'error'>;

/**
 * JSON lines to standard error. Requests do not wait for whoever reads them, nor for a disk that is full. Nobody logs
 * what is secret on purpose; should somebody, it stays secret all the same.
 */
export function createApiLogger(level: 'debug' | 'info' | 'warn' | 'error' | 'silent'): PinoLogger {
  return pino(
    {
      level,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: serializeError },
      redact: { paths: SECRET_PATHS, censor: '[secret]' },
    },
    { write: createStderrSink() },
  );
}

const SECRETS = ['apiKey', 'key', 'accessToken', 'envdAccessToken', 'trafficAccessToken', 'envVars', 'envs'];
const SECRET_HEADERS = ['["x-api-key"]', 'authorization', '["x-access-token"]', 'cookie'];
const SECRET_PATHS = [
  ...SECRETS,
  ...SECRETS.map((name) => `*.${name}`),
  ...SECRET_HEADERS.map((name) => (name.startsWith('[') ? `req.headers${name}` : `req.headers.${name}`)),
];

function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return String(error);
  const { stack, message } = stdSerializers.err(error);
  if (!(error instanceof WrennError)) return { message, stack };
  return { code: error.code, message, hint: error.hint, stack };
}
