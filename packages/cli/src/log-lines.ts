/** Log lines for people: what the agent and the API write as JSON, a line for each event. */
import { printable } from './output.ts';

const LINE_MAX_CHARS = 16 * 1024;
const VALUE_MAX_CHARS = 300;

interface Event {
  readonly level: string;
  readonly time: string;
  readonly msg: string;
  readonly sandboxId: string | undefined;
  /** As it came. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Of no use to a reader, or shown at a place of their own. */
const OWN: ReadonlySet<string> = new Set(['level', 'time', 'msg', 'sandboxId', 'pid', 'hostname', 'err']);

/** One event as `12:31:07 INFO  api    <sandbox> request method=GET status=200`; what is none as it is. */
export function readableLine(source: string, line: string): string {
  const event = parsed(line);
  if (event === undefined) return printable(line);
  const rest = Object.entries(event.fields).filter(([name]) => !OWN.has(name));
  const words = [
    timeOf(event.time),
    event.level.toUpperCase().slice(0, 5).padEnd(5),
    source.padEnd(5),
    ...(event.sandboxId === undefined ? [] : [event.sandboxId]),
    event.msg,
    ...rest.map(([name, value]) => `${name}=${shown(value)}`),
    ...errorOf(event.fields.err),
  ];
  return printable(words.filter((word) => word !== '').join(' '));
}

/** An event as it came; what a program has said beside its log (why it cannot start, say) as one. */
export function jsonLine(source: string, line: string): string {
  if (parsed(line) !== undefined) return line;
  return JSON.stringify({ level: 'warn', time: new Date().toISOString(), source, msg: line });
}

function parsed(line: string): Event | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    const fields = asRecord(JSON.parse(line));
    const { level, time, msg = '', sandboxId } = fields;
    if (typeof level !== 'string' || typeof time !== 'string' || typeof msg !== 'string') return undefined;
    return { level, time, msg, sandboxId: typeof sandboxId === 'string' ? sandboxId : undefined, fields };
  } catch {
    return undefined;
  }
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

/** As the clock on the wall says. */
function timeOf(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? time.slice(0, 24) : date.toTimeString().slice(0, 8);
}

function shown(value: unknown): string {
  const text = typeof value === 'string' && /^[\w./:@+-]+$/.test(value) ? value : JSON.stringify(value);
  return (text ?? 'undefined').slice(0, VALUE_MAX_CHARS);
}

/** Without the stack: that is in the JSON. */
function errorOf(error: unknown): string[] {
  if (error === undefined) return [];
  const { message, code } = asRecord(error);
  if (typeof message !== 'string') return [`error=${shown(error)}`];
  return [`${typeof code === 'string' ? `${code}: ` : ''}${message}`.slice(0, VALUE_MAX_CHARS)];
}

/** Calls `onLine` for each whole line of the chunks that it is given; what is too long for one is cut in pieces. */
export function splitLines(onLine: (line: string) => void): (chunk: Buffer) => void {
  const decoder = new TextDecoder();
  let partial = '';
  return (chunk) => {
    const lines = (partial + decoder.decode(chunk, { stream: true })).split('\n');
    partial = lines.pop() ?? '';
    for (const line of lines) if (line !== '') onLine(line);
    if (partial.length <= LINE_MAX_CHARS) return;
    onLine(partial);
    partial = '';
  };
}
