/** The contents of files: streams in both directions, each at the pace of the slower side. */
import type { Agent } from 'node:http';
import { z } from 'zod';
import { fromFileStatus, misbehaved } from './guest-errors.ts';
import { type HttpCall, readBody, readText, sendHttp } from './http.ts';

export interface FileTransfers {
  /** Throws before the first byte if the file cannot be read. */
  readFile(
    path: string,
    user: string | undefined,
    signal: AbortSignal,
  ): Promise<AsyncGenerator<Uint8Array, void, undefined>>;
  /** Returns the absolute path that was written. */
  writeFile(
    path: string,
    user: string | undefined,
    source: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<string>;
}

export interface FileTransferOptions {
  readonly host: string;
  readonly port: number;
  readonly agent: Agent;
  readonly accessToken: string;
  readonly stallMs: number;
}

const ANSWER_MAX_BYTES = 64 * 1024;
/** What the guest says it has written; anything else in it is not our business. */
const writtenSchema = z.array(z.object({ path: z.string().min(1).max(8192) })).length(1);

export function createFileTransfers(options: FileTransferOptions): FileTransfers {
  const { host, port, agent, accessToken, stallMs } = options;

  const call = (
    method: HttpCall['method'],
    path: string,
    user: string | undefined,
    signal: AbortSignal,
  ): HttpCall => {
    const query = new URLSearchParams({ path });
    if (user !== undefined) query.set('username', user);
    const headers = { 'X-Access-Token': accessToken, 'Accept-Encoding': 'identity' };
    return { host, port, agent, method, path: `/files?${query}`, headers, stallMs, signal };
  };

  return {
    readFile: async (path, user, signal) => {
      const answer = await sendHttp(call('GET', path, user, signal));
      if (answer.status !== 200) {
        throw fromFileStatus(
          answer.status,
          messageOf(await readText(answer, ANSWER_MAX_BYTES, stallMs, signal)),
          path,
        );
      }
      return readBody(answer, stallMs, signal);
    },
    writeFile: async (path, user, source, signal) => {
      const { headers, ...rest } = call('POST', path, user, signal);
      const answer = await sendHttp({
        ...rest,
        headers: { ...headers, 'Content-Type': 'application/octet-stream' },
        body: source,
      });
      const text = await readText(answer, ANSWER_MAX_BYTES, stallMs, signal);
      if (answer.status !== 200) throw fromFileStatus(answer.status, messageOf(text), path);
      const written = writtenSchema.safeParse(parseJson(text));
      if (!written.success) throw misbehaved('its answer to an upload names no file', written.error);
      const [file] = written.data;
      return file?.path ?? path;
    },
  };
}

function messageOf(text: string): string {
  const parsed = z.object({ message: z.string() }).safeParse(parseJson(text));
  return parsed.success ? parsed.data.message : '';
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
