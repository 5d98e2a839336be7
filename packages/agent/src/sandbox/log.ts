/** What the sandboxes tell the agent's log and metrics; the server decides where it goes. */
import type { ErrorCode } from '@wrenn/protocol';

export interface LogFields {
  readonly sandboxId?: string;
  /** The error with its causes: logged, never sent. */
  readonly err?: unknown;
  readonly [field: string]: unknown;
}

export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

export interface Phase {
  readonly name: string;
  readonly durationMs: number;
}

/** Counted for the metrics. Never throws. */
export interface Observer {
  created(phases: readonly Phase[]): void;
  createFailed(code: ErrorCode): void;
  /** A VMM ended by itself. */
  failed(): void;
  destroyed(): void;
  adopted(): void;
  cleanupFailed(step: string): void;
  execStarted(): void;
}
