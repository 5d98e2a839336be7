/** The guest's console as log entries, and what is merged with it. It is the guest's text: bounded, and without what steers a terminal. */

export interface LogLine {
  readonly at: Date;
  readonly message: string;
  readonly fields?: Readonly<Record<string, string>>;
}

export const LOG_TAIL_BYTES = 1024 * 1024;
const LINE_MAX_CHARS = 4096;
/** Seconds since the boot, as the kernel's lines begin. */
const KERNEL_TIME = /^\[\s*(\d{1,7}\.\d{1,9})\]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: what is to be removed
const ESCAPES = /\u001b\[[0-9;?]*[A-Za-z]|[\u0000-\u0008\u000b-\u001f\u007f]/g;

/** Without what steers a terminal. */
export function printableLine(line: string): string {
  return line.slice(0, LINE_MAX_CHARS).replace(ESCAPES, '').trimEnd();
}

/** Lines without a time of their own have that of the line before. */
export function parseConsole(bytes: Buffer, startedAt: Date): LogLine[] {
  let at = startedAt;
  const lines: LogLine[] = [];
  for (const line of bytes.toString('utf8').split('\n')) {
    const message = printableLine(line);
    if (message === '') continue;
    const [, seconds] = KERNEL_TIME.exec(message) ?? [];
    if (seconds !== undefined) at = timeOf(startedAt, Number(seconds));
    lines.push({ at, message });
  }
  return lines;
}

/** A copy's kernel counts from the boot of what it is a copy of: its time is unknown then, and not to come. */
function timeOf(startedAt: Date, bootSeconds: number): Date {
  return new Date(Math.min(startedAt.getTime() + Math.round(bootSeconds * 1000), Date.now()));
}

/** Each in its own order, and by time. */
export function mergedByTime(a: readonly LogLine[], b: readonly LogLine[]): LogLine[] {
  return [...a, ...b].sort((one, other) => one.at.getTime() - other.at.getTime());
}
