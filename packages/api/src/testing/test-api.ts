/** The API that most of the REST tests want: it looks at sandboxes often, and their guests answer. */
import { afterAll, beforeAll, expect } from 'vitest';
import { type Answer, type Harness, type HarnessOptions, startHarness } from './harness.ts';

/** Of a guest agent's GET /metrics. */
export const GUEST_ANSWER = {
  ts: 1,
  cpu_count: 2,
  cpu_used_pct: 12.5,
  mem_total: 1000,
  mem_used: 400,
  mem_cache: 100,
  disk_used: 5,
  disk_total: 10,
} as const;

export interface TestApi {
  /** There from the first test on. */
  readonly api: Harness;
  /** Resolves with the body of the answer, which must be 201. */
  create(body?: Readonly<Record<string, unknown>>, key?: string): Promise<Answer['body']>;
}

/** Started before the tests of a file, or of a suite, and ended after them. */
export function useTestApi(guest?: HarnessOptions['guest']): TestApi {
  const api = {} as Harness;
  beforeAll(async () => {
    const started = await startHarness({
      config: { domain: 'sandboxes.test', sandboxes: { watchIntervalMs: 50, metricsIntervalMs: 200 } },
      guest: guest ?? (() => ({ status: 200, text: JSON.stringify(GUEST_ANSWER) })),
    });
    // With its getters: what they tell changes.
    Object.defineProperties(api, Object.getOwnPropertyDescriptors(started));
  }, 60_000);
  afterAll(async () => await api.close());
  return {
    api,
    create: async (body = {}, key) => {
      const options = {
        body: { templateID: 'base', timeout: 60, ...body },
        ...(key === undefined ? {} : { key }),
      };
      const answer = await api.call('POST', '/v2/sandboxes', options);
      expect(answer.status, JSON.stringify(answer.body)).toBe(201);
      return answer.body;
    },
  };
}
