/** Errors as HTTP: one form, `{code, message}`, with the field's name in the message where one is at fault. */
import { ERROR_KINDS, type ErrorKind, WrennError } from '@wrenn/protocol';
import type { z } from 'zod';
import type { Answer } from './route.ts';

const STATUS: Readonly<Record<ErrorKind, number>> = {
  invalid: 400,
  not_found: 404,
  conflict: 409,
  exhausted: 503,
  unavailable: 503,
  timeout: 504,
  cancelled: 503,
  denied: 403,
  internal: 500,
};
/** The caller's own doing, where the kind alone would say it is the host's. */
const OWN_STATUS: Readonly<Record<string, number>> = {
  unauthenticated: 401,
  too_many_requests: 429,
  too_many_sandboxes: 429,
  /** That the agent did not find is the API's business with the agent: no SDK should take it for a sandbox. */
  api_key_not_found: 404,
};
const RETRY_MS = 1000;

export function toAnswer(thrown: unknown): Answer {
  const error = WrennError.from(thrown);
  const status = OWN_STATUS[error.code] ?? STATUS[ERROR_KINDS[error.code]];
  // Hints are for the one who runs the host, except for what the caller can mend.
  const hint = status === 400 && error.hint !== undefined ? ` ${error.hint}` : '';
  const message =
    status >= 500 ? publicMessage(error, status) : `${fieldAtFault(error)}${error.message}${hint}`;
  const retryMs =
    'retryAfterMs' in error && typeof error.retryAfterMs === 'number' ? error.retryAfterMs : RETRY_MS;
  return {
    status,
    body: { code: status, message },
    ...(status === 429 || status === 503 ? { headers: { 'retry-after': retryAfter(retryMs) } } : {}),
  };
}

/** The agent's fields that have another name in a request. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  'network.allow_out': 'network.allowOut',
  'network.deny_out': 'network.denyOut',
  envs: 'envVars',
  memory_mib: 'memoryMB',
  vcpus: 'cpuCount',
};

/** As the caller wrote it, where a request is wrong and the message does not begin with it. */
function fieldAtFault({ kind, field, message }: WrennError): string {
  if (kind !== 'invalid' || field === undefined || message.startsWith(`${field}:`)) return '';
  return `${OTHER_NAMES[field] ?? field}: `;
}

/** What went wrong inside is for the log; what is used up or away may be said. */
function publicMessage({ message, code }: WrennError, status: number): string {
  if (status === 500) return 'Something failed inside Wrenn; the log of the API has the details.';
  if (code === 'store_unavailable') return 'The store does not answer.';
  return message;
}

function retryAfter(ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1000)));
}

/** The first thing that is wrong, with the field's name as the caller wrote it. */
export function invalid(error: z.ZodError): WrennError {
  const [issue] = error.issues;
  const own = issue?.path.map(String).join('.') ?? '';
  const keys =
    issue?.code === 'unrecognized_keys' ? issue.keys.map((key) => key.slice(0, 64)).join(', ') : '';
  const field =
    [own, keys]
      .filter((part) => part !== '')
      .join('.')
      .slice(0, 200) || 'body';
  return new WrennError('invalid_argument', `${field}: ${issue?.message ?? 'is wrong'}`, { field });
}
