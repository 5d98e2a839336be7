/** Ports of guests, reached through the edge: by a name, and by headers. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { WebSocket } from 'ws';
import type { Context } from './context.ts';
import type { Sandbox } from './sdks.ts';

const PORT = 3000;
const BODY_BYTES = 8 * 1024 * 1024;

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly text: string;
}

interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

export function portCases(context: Context): void {
  /** At the name that the SDK gives, which leads to the server here. */
  const byName = (
    sandbox: Sandbox,
    port: number,
    path: string,
    { method = 'GET', headers = {}, body }: Asked = {},
  ) =>
    new Promise<Answer>((resolve, reject) => {
      const url = new URL(path, context.server.url);
      const call = httpRequest(url, { method, headers: { ...headers, host: sandbox.getHost(port) } });
      call.once('error', reject);
      call.once('response', (answer) => {
        let text = '';
        answer.on('data', (chunk: Buffer) => {
          text += chunk;
        });
        answer.once('error', reject);
        answer.once('end', () => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text }));
      });
      call.end(body);
    });
  const headersOf = ({ sandboxId }: Sandbox, port: number) => ({
    'E2b-Sandbox-Id': sandboxId,
    'E2b-Sandbox-Port': String(port),
  });
  const serve = async (sandbox: Sandbox, port = PORT, host = '127.0.0.1'): Promise<void> => {
    await sandbox.files.write(
      '/tmp/server.mjs',
      readFileSync(join(import.meta.dirname, 'guest-server.mjs'), 'utf8'),
    );
    let heard = '';
    await sandbox.commands.run(`node /tmp/server.mjs ${port} ${host}`, {
      background: true,
      timeoutMs: 0,
      onStdout: (text) => {
        heard += text;
      },
    });
    await expect.poll(() => heard, { timeout: 20_000 }).toContain('listening');
  };

  it('have names, and are reached where they are open on the loopback alone', async () => {
    const { sandbox, server } = context;
    expect(sandbox.getHost(8123)).toBe(`8123-${sandbox.sandboxId}.${server.domain}`);
    await sandbox.commands.run('mkdir -p /tmp/www && echo from the loopback > /tmp/www/page');
    await sandbox.commands.run('cd /tmp/www && exec python3 -m http.server --bind 127.0.0.1 8123', {
      background: true,
      timeoutMs: 0,
    });
    await expect
      .poll(async () => (await byName(sandbox, 8123, '/page')).text, { timeout: 20_000 })
      .toBe('from the loopback\n');
    const answer = await fetch(`${server.url}/page`, { headers: headersOf(sandbox, 8123) });
    expect([answer.status, await answer.text()]).toEqual([200, 'from the loopback\n']);
    const withClient = { 'E2b-Sandbox-Id': `${sandbox.sandboxId}-client`, 'E2b-Sandbox-Port': '8123' };
    expect((await fetch(`${server.url}/page`, { headers: withClient })).status).toBe(200);
    expect((await byName(sandbox, 49983, '/health')).status).toBe(204);
    expect((await byName(sandbox, 49983, '/init', { method: 'POST' })).status).toBe(404);
  });

  it('say what is closed, and what is not there', async () => {
    const { sandbox } = context;
    const closed = await byName(sandbox, 9, '/');
    expect([closed.status, JSON.parse(closed.text)]).toEqual([
      502,
      {
        sandboxId: sandbox.sandboxId,
        message: 'The sandbox is running but port is not open',
        port: 9,
        code: 502,
      },
    ]);
    const { status, text } = await byName(sandbox, 9, '/', { headers: { accept: 'text/html' } });
    expect([status, text]).toEqual([502, expect.stringContaining('<html')]);
  });

  it('pass requests on as they are, of any size', async () => {
    const { sandbox, server } = context;
    await serve(sandbox);
    const plain = await byName(sandbox, PORT, '/some%20path?a=1&a=2', {
      method: 'PUT',
      headers: { 'x-own': 'ä' },
    });
    expect(plain.status).toBe(201);
    expect(plain.headers['set-cookie']).toEqual(['a=1', 'b=2']);
    expect(JSON.parse(plain.text)).toMatchObject({
      method: 'PUT',
      url: '/some%20path?a=1&a=2',
      headers: { host: sandbox.getHost(PORT) },
    });
    const body = Buffer.alloc(BODY_BYTES, 'a large body ');
    const hash = createHash('sha256').update(body).digest('hex');
    expect((await byName(sandbox, PORT, '/hash', { method: 'POST', body })).text).toBe(hash);
    const echoed = await fetch(`${server.url}/echo`, {
      method: 'POST',
      body,
      headers: headersOf(sandbox, PORT),
    });
    expect(
      createHash('sha256')
        .update(Buffer.from(await echoed.arrayBuffer()))
        .digest('hex'),
    ).toBe(hash);
  });

  it('stream both ways, and tell each side when the other has gone', async () => {
    const { sandbox, server } = context;
    await sandbox.commands.run('rm -f /tmp/closed');
    const controller = new AbortController();
    const events = await fetch(`${server.url}/events`, {
      headers: headersOf(sandbox, PORT),
      signal: controller.signal,
    });
    expect(events.headers.get('content-type')).toBe('text/event-stream');
    let text = '';
    for await (const chunk of events.body ?? []) {
      text += Buffer.from(chunk).toString();
      if (text.includes('data: 5')) break;
    }
    controller.abort();
    expect(text).toContain('data: 0\n\ndata: 1\n\n');
    // As they come: there is no end of them, and none were gathered for long.
    expect(text).not.toContain('data: 100\n');
    await expect.poll(() => sandbox.files.exists('/tmp/closed'), { timeout: 20_000 }).toBe(true);
  });

  it('take websockets', async () => {
    const { sandbox, server } = context;
    const socket = new WebSocket(server.url.replace('http', 'ws'), { headers: headersOf(sandbox, PORT) });
    const heard: string[] = [];
    socket.on('message', (data) => heard.push(String(data)));
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
    for (const text of ['one', 'two', 'ä'.repeat(50)]) socket.send(text);
    await expect.poll(() => heard, { timeout: 20_000 }).toEqual(['one', 'two', 'ä'.repeat(50)]);
    socket.terminate();
    const closed = new WebSocket(server.url.replace('http', 'ws'), { headers: headersOf(sandbox, 9) });
    const error = await new Promise<Error>((resolve) => closed.once('error', resolve));
    expect(error.message).toContain('502');
  });

  it('can be kept from strangers, see another host, wake their sandbox, and are cut with it', async () => {
    const { server, sdk } = context;
    const sandbox = await context.create({
      // biome-ignore lint/suspicious/noTemplateCurlyInString: a placeholder of E2B's
      network: { allowPublicTraffic: false, maskRequestHost: 'localhost:${PORT}' },
      lifecycle: { onTimeout: 'pause', autoResume: true },
    });
    await serve(sandbox, PORT, '0.0.0.0');
    const token = sandbox.trafficAccessToken ?? '';
    const headers = { 'e2b-traffic-access-token': token };
    expect((await byName(sandbox, PORT, '/')).status).toBe(403);
    expect((await byName(sandbox, PORT, '/', { headers: { 'e2b-traffic-access-token': 'x' } })).status).toBe(
      403,
    );
    const shown = await byName(sandbox, PORT, '/', { headers });
    expect([shown.status, JSON.parse(shown.text).headers.host]).toEqual([201, `localhost:${PORT}`]);
    expect(shown.text).not.toContain(token);

    await sandbox.pause();
    expect((await byName(sandbox, PORT, '/', { headers })).status).toBe(201);
    expect((await sandbox.getInfo()).state).toBe('running');

    const events = await fetch(`${server.url}/events`, {
      headers: { ...headersOf(sandbox, PORT), ...headers },
    });
    const reading = (async () => {
      for await (const _ of events.body ?? []);
    })();
    const broken = expect(reading).rejects.toThrow(/terminated/);
    expect(await sdk.Sandbox.kill(sandbox.sandboxId)).toBe(true);
    await broken;
    const gone = await byName(sandbox, PORT, '/', { headers });
    expect([gone.status, JSON.parse(gone.text)]).toEqual([
      502,
      { sandboxId: sandbox.sandboxId, message: 'The sandbox was not found', code: 502 },
    ]);
  });
}
