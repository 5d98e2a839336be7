/** What a guest's agent says was done through it: processes, as they started and ended. The guest's word, and bounded. */
import { ENVD_PORT } from '@wrenn/protocol';
import { z } from 'zod';
import type { Agent } from '../agent-client/index.ts';
import { askGuest } from './ask-guest.ts';
import { type LogLine, printableLine } from './logs.ts';

/** Throws where the guest does not answer, or not in this form. */
export type ReadActivity = (sandboxId: string) => Promise<LogLine[]>;

const ANSWER_TIMEOUT_MS = 3000;
/** A thousand entries with commands of two hundred characters, each of them escaped. */
const ANSWER_MAX_BYTES = 2 * 1024 * 1024;
const MAX_ENTRIES = 1000;

const answerSchema = z.object({
  entries: z
    .array(
      z.object({
        atMs: z.number().min(0).max(8_640_000_000_000_000),
        message: z.string().max(4096),
        fields: z.record(z.string().max(64), z.string().max(256)),
      }),
    )
    .max(MAX_ENTRIES),
});

export function createActivityReader(agent: Agent, envdPort: number = ENVD_PORT): ReadActivity {
  return async (sandboxId) => {
    const { address, envdAccessToken: token } = await agent.access(sandboxId);
    const { signal } = new AbortController();
    const { status, text } = await askGuest({
      address,
      port: envdPort,
      token,
      method: 'GET',
      path: '/logs',
      timeoutMs: ANSWER_TIMEOUT_MS,
      maxBytes: ANSWER_MAX_BYTES,
      signal,
    });
    if (status !== 200) throw new Error(`The guest answered ${status}.`);
    return answerSchema.parse(JSON.parse(text)).entries.map(({ atMs, message, fields }) => ({
      at: new Date(Math.floor(atMs)),
      message: printableLine(message.replaceAll('\n', ' ')),
      fields,
    }));
  };
}
