/** The agent's log: JSON lines to stderr, or to a file of bounded size. */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';
import { createStderrSink } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { pino, stdSerializers } from 'pino';
import type { AgentConfig } from '../config/schema.ts';
import type { Logger } from '../sandbox/log.ts';

/** What a guest or a VMM has printed can be in an error: no single line grows beyond this. */
const LINE_MAX_CHARS = 32 * 1024;

export function createLogger({ level, file, maxFileBytes }: AgentConfig['log']): Logger {
  const sink = file === undefined ? createStderrSink() : fileSink(file, maxFileBytes);
  return pino(
    {
      level,
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: serializeError },
      // Nobody logs these on purpose; should somebody, they stay secret all the same.
      redact: { paths: ['accessToken', '*.accessToken', 'envs', '*.envs'], censor: '[secret]' },
    },
    { write: (line) => sink(line.length > LINE_MAX_CHARS ? shortened(line) : line) },
  );
}

/** With our code and hint, and the chain of causes. */
function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return String(error);
  const { stack, message } = stdSerializers.err(error);
  if (!(error instanceof WrennError)) return { message, stack };
  return { code: error.code, message, hint: error.hint, stack };
}

function shortened(line: string): string {
  return `${JSON.stringify({ level: 'warn', msg: 'a log line was too long', begin: line.slice(0, 1024) })}\n`;
}

/** One older file is kept beside it, so the two together take at most twice the size. */
function fileSink(path: string, maxBytes: number): (line: string) => void {
  let fd = openSync(path, 'a', 0o600);
  let sizeBytes = fstatSync(fd).size;
  // The file stays open until there is another: once it is closed its number may be that of anything else.
  const beginAnew = (): void => {
    const next = openSync(`${path}.new`, 'w', 0o600);
    try {
      renameSync(path, `${path}.1`);
      renameSync(`${path}.new`, path);
    } catch (error) {
      closeSync(next);
      throw error;
    }
    closeSync(fd);
    fd = next;
    sizeBytes = 0;
  };
  return (line) => {
    try {
      if (sizeBytes > 0 && sizeBytes + Buffer.byteLength(line) > maxBytes) beginAnew();
      sizeBytes += writeSync(fd, line);
    } catch {
      // A full disk must not end the agent; the line is lost.
    }
  };
}
