/** What a key may have under way of what it sends, over real connections. */
import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from '../testing/harness.ts';

const KIB = 1024;

let api: Harness;
beforeAll(async () => {
  api = await startHarness({ config: { keyLimits: { maxBodyMibInFlight: 1 } } });
}, 60_000);
afterAll(async () => await api.close());

function post(key: string, length: number | undefined): ClientRequest {
  const outgoing = request(`${api.url}/v2/sandboxes`, {
    method: 'POST',
    agent: false,
    headers: {
      'x-api-key': key,
      'content-type': 'application/json',
      ...(length === undefined ? { 'transfer-encoding': 'chunked' } : { 'content-length': length }),
    },
  });
  outgoing.on('error', () => {});
  return outgoing;
}

async function answerTo(outgoing: ClientRequest) {
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  let text = '';
  for await (const chunk of answer) text += chunk;
  return { status: answer.statusCode, body: JSON.parse(text), retryAfter: answer.headers['retry-after'] };
}

const tooMuch = {
  status: 429,
  body: { code: 429, message: expect.stringContaining('too many large requests under way') },
  retryAfter: '1',
};

describe('what a key sends', () => {
  it.each([
    ['of a length that it has said', 700 * KIB],
    ['in pieces', undefined],
  ])('%s is refused where too much of it is under way', async (_, length) => {
    const [key, other] = [await api.newKey(), await api.newKey()];
    const body = Buffer.from(JSON.stringify({ templateID: 'x'.repeat(700 * KIB - 17) }));
    expect(body.length).toBe(700 * KIB);
    const slow = post(key, length);
    slow.write(body.subarray(0, -1));
    // There by then: another key's, which is refused for what it says, went the same way.
    const whole = (by: string): Promise<unknown> => {
      const outgoing = post(by, length);
      const answer = answerTo(outgoing);
      outgoing.end(body);
      return answer;
    };
    const wrong = expect.objectContaining({ status: 400 });
    expect(await whole(other)).toEqual(wrong);
    expect(await whole(key)).toEqual(tooMuch);
    const small = await api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base' } });
    expect(small.status).toBe(201);
    const first = answerTo(slow);
    slow.end(body.subarray(-1));
    expect(await first).toEqual(wrong);
    expect(await whole(key)).toEqual(wrong);
    // One whose client goes away in the middle holds nothing.
    const gone = post(key, length);
    gone.write(body.subarray(0, -1));
    expect(await whole(other)).toEqual(wrong);
    gone.destroy();
    await expect.poll(() => whole(key)).toEqual(wrong);
    await api.call('DELETE', `/sandboxes/${small.body.sandboxID}`, { key });
  });
});
