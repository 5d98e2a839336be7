/**
 * The one error class of Wrenn and its codes.
 *
 * A code is part of the interface: scripts match on it, so it never changes its meaning. The message
 * says what happened, the hint what to do next; both may be shown to anyone. The cause is for the log
 * alone and never leaves the process.
 */

/** What kind of failure it is: decides the RPC code, the HTTP status and the CLI's exit code. */
export type ErrorKind =
  | 'invalid' // the request is wrong, whoever sends it again
  | 'not_found'
  | 'conflict' // not possible in the present state
  | 'exhausted' // a limit or a resource of the host is used up
  | 'unavailable' // may work later, or after the hint is followed
  | 'timeout'
  | 'cancelled'
  | 'denied'
  | 'internal';

/** Every stable code with its kind. Sorted by kind; a new failure gets a new line here. */
export const ERROR_KINDS = {
  invalid_argument: 'invalid',
  invalid_config: 'invalid',
  invalid_path: 'invalid',
  invalid_sandbox_id: 'invalid',
  memory_exceeds_host: 'invalid',
  vcpus_exceed_host: 'invalid',

  api_key_not_found: 'not_found',
  file_not_found: 'not_found',
  process_not_found: 'not_found',
  sandbox_not_found: 'not_found',
  snapshot_not_found: 'not_found',
  template_not_found: 'not_found',
  user_not_found: 'not_found',

  agent_already_running: 'conflict',
  name_taken: 'conflict',
  sandbox_failed: 'conflict',
  sandbox_wrong_state: 'conflict',
  snapshot_in_use: 'conflict',
  snapshot_incompatible: 'conflict',
  store_in_use: 'conflict',
  template_in_use: 'conflict',

  descriptors_exhausted: 'exhausted',
  disk_full: 'exhausted',
  memory_exhausted: 'exhausted',
  network_slots_exhausted: 'exhausted',
  too_many_requests: 'exhausted',
  too_many_sandboxes: 'exhausted',
  too_many_streams: 'exhausted',

  agent_not_running: 'unavailable',
  cgroups_unavailable: 'unavailable',
  driver_unavailable: 'unavailable',
  guest_unreachable: 'unavailable',
  missing_privilege: 'unavailable',
  missing_program: 'unavailable',
  network_conflict: 'unavailable',
  not_set_up: 'unavailable',
  sandbox_unavailable: 'unavailable',
  store_unavailable: 'unavailable',

  boot_timeout: 'timeout',
  deadline_exceeded: 'timeout',

  cancelled: 'cancelled',

  file_access_denied: 'denied',
  not_permitted: 'denied',
  unauthenticated: 'denied',

  command_failed: 'internal',
  guest_protocol: 'internal',
  internal: 'internal',
  journal_corrupt: 'internal',
  snapshot_corrupt: 'internal',
  vmm_api_error: 'internal',
  vmm_died: 'internal',
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_KINDS;

export interface WrennErrorOptions {
  /** What to do next, as a sentence or a command. */
  readonly hint?: string;
  /** The request or configuration field at fault, as the user wrote it. */
  readonly field?: string;
  /** What led to this; logged, never sent. */
  readonly cause?: unknown;
}

export class WrennError extends Error {
  override readonly name = 'WrennError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly field: string | undefined;

  constructor(code: ErrorCode, message: string, options: WrennErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
    this.field = options.field;
  }

  get kind(): ErrorKind {
    return ERROR_KINDS[this.code];
  }

  /** The error itself if it is one of ours, else an `internal` one that keeps it as its cause. */
  static from(error: unknown): WrennError {
    if (error instanceof WrennError) return error;
    if (error instanceof Error && error.name === 'AbortError') {
      return new WrennError('cancelled', 'The operation was cancelled.', { cause: error });
    }
    return new WrennError('internal', 'Something failed inside Wrenn.', {
      hint: "The agent's log has the details.",
      cause: error,
    });
  }
}
