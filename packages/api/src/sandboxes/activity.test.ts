/** The logs of a sandbox: its console, and what its guest says was done. */
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { type Harness, startHarness } from '../testing/harness.ts';

let api: Harness;
let answer: { status: number; text: string };
const CONSOLE = ['[    0.100000] Linux version 6.1', '[    1.500000] wrenn-init: started', 'hello world'];
beforeAll(async () => {
  api = await startHarness({ guest: () => answer });
}, 60_000);
afterAll(async () => await api.close());

let id: string;
beforeEach(async () => {
  const { body } = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
  id = body.sandboxID;
});

const entry = (atMs: number, message: string) => ({ atMs, message, fields: { event: 'process_start' } });
const told = (entries: unknown) => {
  answer = { status: 200, text: JSON.stringify({ entries }) };
};
const logs = async () => (await api.call('GET', `/v2/sandboxes/${id}/logs`)).body.logs;
const messages = async () => (await logs()).map(({ message }: { message: string }) => message);

it('are merged by time, without what others did before', async () => {
  const now = Date.now();
  told([
    entry(now - 3_600_000, 'of the template'),
    entry(now + 60_000, 'process 7 started: \u001b[31m/bin/sh\nx'),
  ]);
  expect(await messages()).toEqual([...CONSOLE, 'process 7 started: /bin/sh x']);
  expect((await logs()).at(-1)).toMatchObject({
    timestamp: new Date(now + 60_000).toISOString(),
    level: 'info',
    fields: { event: 'process_start' },
  });
  const { body } = await api.call('GET', `/sandboxes/${id}/logs`);
  expect(body.logs.at(-1)).toEqual({
    timestamp: expect.any(String),
    line: expect.stringContaining('"message":"process 7 started: /bin/sh x"'),
  });
  // No line of a copy's console is from a time to come, whenever its kernel has booted.
  expect(Date.parse((await logs())[1].timestamp)).toBeLessThanOrEqual(Date.now());
});

it.each([
  ['an agent that knows nothing of it', 404, '{"code":404,"message":"no such path"}'],
  ['no JSON', 200, 'hello'],
  ['too much', 200, 'x'.repeat(3 * 1024 * 1024)],
  ['entries without end', 200, JSON.stringify({ entries: Array(1001).fill(entry(1, 'x')) })],
  ['a time that there is not', 200, JSON.stringify({ entries: [entry(1e300, 'x')] })],
  ['fields that are none', 200, JSON.stringify({ entries: [{ ...entry(1, 'x'), fields: { a: 1 } }] })],
])('are the console alone where the guest answers with %s', async (_, status, text) => {
  answer = { status, text };
  expect(await messages()).toEqual(CONSOLE);
});

it('are the console alone while it sleeps', async () => {
  told([entry(Date.now() + 1000, 'x')]);
  await api.call('POST', `/sandboxes/${id}/pause`);
  expect(await messages()).toEqual(CONSOLE);
});
