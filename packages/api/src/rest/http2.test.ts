/** The REST API as clients see it that chose HTTP/2. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type ClientHttp2Session, connect, type IncomingHttpHeaders } from 'node:http2';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from '../testing/harness.ts';

let api: Harness;
let session: ClientHttp2Session;
beforeAll(async () => {
  api = await startHarness({ config: { tls: 'development' } });
  session = connect(api.url, { ca: readFileSync(api.authorityFile ?? '') });
  session.on('error', () => {});
}, 60_000);
afterAll(async () => {
  const startedAt = performance.now();
  await api.api.close();
  const tookMs = performance.now() - startedAt;
  await api.close();
  // A connection that is open and idle does not hold the end up: it was not cut, six seconds later.
  expect(tookMs).toBeLessThan(5900);
});

async function ask(method: string, path: string, body?: string | Buffer, key = api.key) {
  const stream = session.request(
    { ':method': method, ':path': path, 'x-api-key': key, 'content-type': 'application/json' },
    { endStream: body === undefined },
  );
  if (body !== undefined) stream.end(body);
  const [headers] = (await once(stream, 'response')) as [IncomingHttpHeaders & { ':status'?: number }];
  let text = '';
  for await (const chunk of stream) text += chunk;
  return { status: headers[':status'], headers, body: text === '' ? undefined : JSON.parse(text) };
}

describe('over HTTP/2', () => {
  it('sandboxes are made, listed and killed, many requests at once', async () => {
    const made = await ask('POST', '/v2/sandboxes', JSON.stringify({ templateID: 'base', timeout: 60 }));
    expect(made.status).toBe(201);
    const id = made.body.sandboxID;
    const lists = await Promise.all(Array.from({ length: 20 }, () => ask('GET', '/v2/sandboxes')));
    for (const list of lists) expect(list.body).toMatchObject([{ sandboxID: id }]);
    expect(await ask('DELETE', `/sandboxes/${id}`)).toMatchObject({ status: 204, body: undefined });
  });

  it('errors have the one form', async () => {
    for (const [method, path, body, status] of [
      ['GET', '/nowhere', undefined, 404],
      ['POST', '/v2/sandboxes', '{"timeout":', 400],
      ['POST', '/v2/sandboxes', '{"timeout": "x"}', 400],
      ['POST', '/v2/sandboxes', Buffer.alloc(2 * 1024 * 1024, 32), 413],
      ['GET', '/sandboxes/%00', undefined, 400],
    ] as const) {
      const answer = await ask(method, path, body);
      expect(answer.status, path).toBe(status);
      expect(answer.body).toMatchObject({ code: status, message: expect.any(String) });
    }
    expect((await ask('GET', '/v2/sandboxes', undefined, 'e2b_0')).status).toBe(401);
  });
});
