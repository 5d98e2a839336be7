/** The guest's console as log entries. It is the guest's text: bounded, and without what steers a terminal. */

export interface LogLine {
  readonly at: Date;
  readonly message: string;
}

export const LOG_TAIL_BYTES = 1024 * 1024;
const LINE_MAX_CHARS = 4096;
/** Seconds since the boot, as the kernel's lines begin. */
const KERNEL_TIME = /^\[\s*(\d{1,7}\.\d{1,9})\]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: what is to be removed
const ESCAPES = /\u001b\[[0-9;?]*[A-Za-z]|[\u0000-\u0008\u000b-\u001f\u007f]/g;

/** Lines without a time of their own have that of the line before. */
export function parseConsole(bytes: Buffer, startedAt: Date): LogLine[] {
  let at = startedAt;
  const lines: LogLine[] = [];
  for (const line of bytes.toString('utf8').split('\n')) {
    const message = line.slice(0, LINE_MAX_CHARS).replace(ESCAPES, '').trimEnd();
    if (message === '') continue;
    const [, seconds] = KERNEL_TIME.exec(message) ?? [];
    if (seconds !== undefined) at = new Date(startedAt.getTime() + Math.round(Number(seconds) * 1000));
    lines.push({ at, message });
  }
  return lines;
}
