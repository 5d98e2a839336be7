/** What people and scripts read: tables, JSON, errors. Text that came from a guest is escaped. */
import type { Writable } from 'node:stream';
import type { WrennError } from '@wrenn/protocol';

/** Control and direction characters, which could forge lines or drive the terminal, made visible. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => {
    return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  });
}

/** Columns as wide as their widest cell, two blanks between them. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows.map((row) => row.map(printable))];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return `${all.map(line).join('\n')}\n`;
}

export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000)
    return `${Math.floor(ms / 60_000)}m${String(Math.floor((ms / 1000) % 60)).padStart(2, '0')}s`;
  return `${Math.floor(ms / 3_600_000)}h${String(Math.floor((ms / 60_000) % 60)).padStart(2, '0')}m`;
}

export function formatBytes(bytes: number): string {
  if (bytes < 1024 * 1024) return `${Math.ceil(bytes / 1024)} KiB`;
  if (bytes < 1024 ** 3) return `${Math.round(bytes / 1024 ** 2)} MiB`;
  return `${(bytes / 1024 ** 3).toFixed(1)} GiB`;
}

/** Never rounded: a limit is shown as what it is. */
export function formatRate(bytesPerSecond: number): string {
  if (bytesPerSecond % 1024 !== 0) return `${bytesPerSecond} B/s`;
  if (bytesPerSecond % 1024 ** 2 !== 0) return `${bytesPerSecond / 1024} KiB/s`;
  return `${bytesPerSecond / 1024 ** 2} MiB/s`;
}

export function printJson(value: unknown): void {
  process.stdout.write(jsonText(value));
}

export function jsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** Resolves when it is written, and rejects if it cannot be. */
export async function tell(text: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()));
  });
}

/** An error for people on stderr, or for scripts as JSON there; never a stack. */
export function printError(error: WrennError, json: boolean): void {
  if (json) {
    const { code, message, hint, field } = error;
    process.stderr.write(`${JSON.stringify({ error: { code, message, hint, field } })}\n`);
    return;
  }
  const at = error.field === undefined ? '' : ` (${printable(error.field)})`;
  process.stderr.write(`wrenn: ${printable(error.message)}${at}\n`);
  if (error.hint !== undefined && error.hint !== '') process.stderr.write(`hint: ${printable(error.hint)}\n`);
}

/**
 * Resolves when there is room for more. Never rejects: what becomes of a stream that takes no more is decided where its
 * errors are listened for.
 */
export async function writeInTurn(stream: Writable, bytes: Uint8Array | string): Promise<void> {
  if (stream.write(bytes) || stream.destroyed) return;
  await new Promise<void>((resolve) => {
    const events = ['drain', 'error', 'close'] as const;
    const done = () => {
      for (const event of events) stream.off(event, done);
      resolve();
    };
    for (const event of events) stream.on(event, done);
  });
}

/** Lines that say what is going on, on stderr, when somebody is likely to read them. */
export function createProgress(enabled: boolean): (message: string) => void {
  return (message) => {
    if (enabled) process.stderr.write(`${printable(message)}\n`);
  };
}
