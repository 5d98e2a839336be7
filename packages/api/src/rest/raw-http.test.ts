/** Bytes that no client library would send, and clients that send or take them slowly. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from '../testing/harness.ts';

const HEADERS_TIMEOUT_MS = 500;
const REQUEST_TIMEOUT_MS = 1000;
/** More than a busy machine stands still. */
const FIRST_WORD_MS = 5000;

let api: Harness;
let port: number;
beforeAll(async () => {
  const requests = { headersTimeoutMs: HEADERS_TIMEOUT_MS, requestTimeoutMs: REQUEST_TIMEOUT_MS };
  api = await startHarness({ config: { domain: 'sandboxes.test', requests } });
  port = Number(new URL(api.url).port);
}, 60_000);
afterAll(async () => await api.close());

interface Heard {
  readonly text: string;
  readonly closed: boolean;
}

interface Hearing {
  readonly quietMs?: number;
  /** Whether the client ends its side. */
  readonly end?: boolean;
  /** How many there are to be: silence before they have begun is the machine's. */
  readonly answers?: number;
}

/** Sends the pieces, and hears until the server closes or has been silent for a while. */
async function tell(pieces: readonly (string | Buffer)[], hearing: Hearing = {}): Promise<Heard> {
  const socket = connect({ host: '127.0.0.1', port });
  try {
    return await hear(socket, pieces, hearing);
  } finally {
    socket.destroy();
  }
}

async function hear(
  socket: Socket,
  pieces: readonly (string | Buffer)[],
  { quietMs = 400, end = false, answers = 1 }: Hearing,
): Promise<Heard> {
  const chunks: Buffer[] = [];
  let closed = false;
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('error', () => {});
  const over = new Promise<void>((resolve) =>
    socket.once('close', () => {
      closed = true;
      resolve();
    }),
  );
  for (const piece of pieces) {
    socket.write(typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece);
    if (pieces.length > 1) await sleep(10);
  }
  if (end) socket.end();
  const text = (): string => Buffer.concat(chunks).toString('latin1');
  const deadline = performance.now() + FIRST_WORD_MS;
  const isAwaited = (): boolean =>
    performance.now() < deadline && text().split('HTTP/1.1 ').length - 1 < answers;
  let heard = -1;
  while (!closed && (heard !== chunks.length || isAwaited())) {
    heard = chunks.length;
    await Promise.race([over, sleep(quietMs)]);
  }
  return { text: text(), closed };
}

interface Part {
  readonly status: number;
  readonly body: string;
}

/** Answers by their lengths, as a client takes them: a body cannot pretend to be the next one. */
function partsOf({ text }: Heard): Part[] {
  const parts: Part[] = [];
  for (let rest = text; rest !== ''; ) {
    const end = rest.indexOf('\r\n\r\n');
    const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(rest) ?? [];
    if (status === undefined || end === -1) throw new Error(`no answer: ${rest.slice(0, 200)}`);
    const [, length = '0'] = /\r\ncontent-length: (\d+)/i.exec(rest.slice(0, end)) ?? [];
    const from = end + '\r\n\r\n'.length;
    parts.push({ status: Number(status), body: rest.slice(from, from + Number(length)) });
    rest = rest.slice(from + Number(length));
  }
  return parts;
}

const statusesOf = (heard: Heard): number[] => partsOf(heard).map(({ status }) => status);

/** Every answer is an error of the one form, or none at all. */
function expectRefused(heard: Heard, what: string): void {
  for (const { status, body } of partsOf(heard)) {
    expect([400, 401, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501], what).toContain(status);
    expect(JSON.parse(body), what).toEqual({ code: status, message: expect.any(String) });
  }
  expect(heard.text, what).not.toMatch(/\n\s+at |node_modules|node:internal/);
}

const host = 'Host: 127.0.0.1\r\n';
const post = 'POST /v2/sandboxes HTTP/1.1\r\n';

describe('what is not a request', () => {
  it.each([
    ['nothing of HTTP', 'hello\r\n\r\n'],
    ['TLS', Buffer.from('160301020001000100', 'hex')],
    ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['a method that there is not', `FROB / HTTP/1.1\r\n${host}\r\n`],
    ['a version that there is not', `GET / HTTP/9.9\r\n${host}\r\n`],
    ['no host', 'GET /v2/sandboxes HTTP/1.1\r\n\r\n'],
    ['two hosts', `GET / HTTP/1.1\r\n${host}Host: other\r\n\r\n`],
    ['two lengths', `${post}${host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`],
    [
      'a length and chunks',
      `${post}${host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n`,
    ],
    ['chunks that are hidden', `${post}${host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`],
    ['chunks twice', `${post}${host}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n`],
    ['a space before the colon', `${post}${host}Content-Length : 5\r\n\r\nabcde`],
    ['a folded header', `GET / HTTP/1.1\r\n${host}X: a\r\n b\r\n\r\n`],
    ['line feeds alone', 'GET / HTTP/1.1\nHost: x\n\n'],
    ['a negative length', `${post}${host}Content-Length: -1\r\n\r\n`],
    ['a length beyond numbers', `${post}${host}Content-Length: ${'9'.repeat(40)}\r\n\r\n`],
    ['a chunk beyond numbers', `${post}${host}Transfer-Encoding: chunked\r\n\r\n${'f'.repeat(40)}\r\n`],
    ['a chunk that is none', `${post}${host}Transfer-Encoding: chunked\r\n\r\nzz\r\n`],
    ['NUL in the path', `GET /a\0b HTTP/1.1\r\n${host}\r\n`],
    ['NUL in a header', `GET / HTTP/1.1\r\n${host}X-API-Key: a\0b\r\n\r\n`],
    [
      'bytes that are no UTF-8 in the path',
      Buffer.concat([Buffer.from('GET /\xff\xfe', 'latin1'), Buffer.from(` HTTP/1.1\r\n${host}\r\n`)]),
    ],
    ['another machine’s address', `GET http://169.254.169.254/latest HTTP/1.1\r\n${host}\r\n`],
    ['a tunnel', `CONNECT 127.0.0.1:22 HTTP/1.1\r\n${host}\r\n`],
    ['a change of protocol', `GET / HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`],
    [
      'a change to HTTP/2',
      `GET / HTTP/1.1\r\n${host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n`,
    ],
    [
      'an expectation that there is not',
      `${post}${host}Expect: the-spanish-inquisition\r\nContent-Length: 2\r\n\r\n{}`,
    ],
    ['a huge header', `GET / HTTP/1.1\r\n${host}X: ${'a'.repeat(100_000)}\r\n\r\n`],
    ['a huge path', `GET /${'a'.repeat(100_000)} HTTP/1.1\r\n${host}\r\n`],
    ['three thousand headers', `GET / HTTP/1.1\r\n${host}${'X: a\r\n'.repeat(3000)}\r\n`],
    ['a path that climbs', `GET /../../../etc/passwd HTTP/1.1\r\n${host}\r\n`],
    ['all of them', `OPTIONS * HTTP/1.1\r\n${host}\r\n`],
  ])('is refused: %s', async (what, bytes) => {
    const heard = await tell([bytes]);
    expectRefused(heard, what);
    expect(statusesOf(heard).length, what).toBeLessThanOrEqual(1);
    expect(heard.text.length > 0 || heard.closed, `${what}: ${heard.text}`).toBe(true);
  });

  it('is refused whatever it is, and another request is answered', { timeout: 60_000 }, async () => {
    const line = fc.constantFrom(
      'GET /v2/sandboxes HTTP/1.1',
      post.trim(),
      'DELETE / HTTP/1.0',
      'GET',
      '\0',
      'POST /x HTTP/1.1',
    );
    const header = fc.oneof(
      fc.constantFrom(
        'Host: a',
        'Host:',
        'Content-Length: 3',
        'Transfer-Encoding: chunked',
        'Connection: close, x-api-key',
      ),
      fc.string({ unit: 'binary', maxLength: 30 }),
    );
    const separator = fc.constantFrom('\r\n', '\n', '\r', '\r\n\r\n', ' ');
    const message = fc.tuple(
      line,
      separator,
      fc.array(fc.tuple(header, separator), { maxLength: 4 }),
      fc.string({ unit: 'binary', maxLength: 20 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(message, { minLength: 40, maxLength: 40 }), async (messages) => {
        const heard = await Promise.all(
          messages.map(([first, s, headers, body]) =>
            tell([`${first}${s}${headers.flat().join('')}\r\n${body}`], { quietMs: 100, end: true }),
          ),
        );
        for (const one of heard) expectRefused(one, one.text);
      }),
      { numRuns: 10, endOnFailure: true },
    );
    expect((await api.call('GET', '/health', { key: null })).status).toBe(204);
  });
});

describe('requests in a row', () => {
  it('are answered in their order up to one that is wrong, and nothing of a body is taken for one', async () => {
    const hidden = 'GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n';
    const requests = [
      `GET /health HTTP/1.1\r\n${host}\r\n`,
      `${post}${host}X-API-Key: ${api.key}\r\nContent-Type: application/json\r\nContent-Length: ${hidden.length}\r\n\r\n${hidden}`,
      `GET /nothing HTTP/1.1\r\n${host}\r\n`,
    ];
    expect(statusesOf(await tell([requests.join('')], { answers: 2 }))).toEqual([204, 400]);
  });

  it('end with the one that nobody may send', async () => {
    const refused = `${post}${host}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`;
    const heard = await tell([`${refused}GET /health HTTP/1.1\r\n${host}\r\n`], { answers: 2 });
    expect(statusesOf(heard)).toEqual([401, 204]);
  });

  it('by the thousand cost no more than their answers', async () => {
    const many = `GET /nothing HTTP/1.1\r\n${host}\r\n`.repeat(2000);
    const heard = await tell([many], { quietMs: 5000 });
    expect(new Set(statusesOf(heard))).toEqual(new Set([404]));
  });
});

describe('slow clients', () => {
  const metric = async (name: string): Promise<number> => {
    const { body } = await api.call('GET', '/metrics');
    return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(body)?.[1]);
  };
  /** But for the one that asks. */
  const inFlight = async (): Promise<number> => (await metric('wrenn_api_requests_in_flight')) - 1;

  it('that do not come to the end of their headers are cut off', async () => {
    const heard = await tell([`GET /health HTTP/1.1\r\n${host}X`], { quietMs: 5000 });
    expect(heard.closed).toBe(true);
    expectRefused(heard, 'slow headers');
  });

  it('that say nothing at all are cut off, without a word that answers nothing', async () => {
    expect(await tell([], { quietMs: 5000 })).toEqual({ text: '', closed: true });
  });

  it('that do not come to the end of their body are told, and hold no place', async () => {
    const slow = Array.from({ length: 20 }, () =>
      tell(
        [
          `${post}${host}X-API-Key: ${api.key}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{`,
        ],
        { quietMs: 6000 },
      ),
    );
    for (const heard of await Promise.all(slow)) {
      expect(statusesOf(heard)).toEqual([408]);
      expectRefused(heard, 'slow body');
      expect(heard.closed).toBe(true);
    }
    expect(await inFlight()).toBe(0);
  });

  it('that were refused hear nothing more than that', async () => {
    const heard = await tell([`${post}${host}Content-Length: 50\r\n\r\n{`], { quietMs: 4000 });
    expect(statusesOf(heard)).toEqual([401]);
    expect(heard.closed).toBe(true);
  });

  it('for what is not there are told so without being read', async () => {
    const head = `POST /nothing HTTP/1.1\r\n${host}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{`;
    const heard = await tell([head], { quietMs: 4000 });
    expect(statusesOf(heard)).toEqual([404]);
    expect(heard.closed).toBe(true);
  });

  it('that are refused a change of protocol hold nothing, though they never end their side', async () => {
    const client = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    client.on('error', () => {}).resume();
    client.write(`GET / HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: echo\r\n\r\n`);
    // Only a connection that is closed on the other side is reset.
    client.once('end', () => setInterval(() => client.write('a'), 100).unref());
    await new Promise((resolve) => client.once('close', resolve));
  });

  it('that end their side first are answered all the same', async () => {
    const heard = await tell([`GET /nothing HTTP/1.1\r\n${host}\r\n`], { quietMs: 1000, end: true });
    expect(statusesOf(heard)).toEqual([404]);
  });

  it('that do not take their answers are cut off, and hold no place', { timeout: 60_000 }, async () => {
    const cut = async () => await metric('wrenn_api_requests_aborted_total');
    const [key, before] = [await api.newKey(), await cut()];
    const sockets = Array.from({ length: 4 }, () => {
      const socket = connect({ host: '127.0.0.1', port }).on('error', () => {});
      socket.pause();
      // More than the kernel takes for a client that does not read.
      socket.write(`GET /templates HTTP/1.1\r\n${host}X-API-Key: ${key}\r\n\r\n`.repeat(20_000));
      return { socket, closed: new Promise<void>((resolve) => socket.once('close', () => resolve())) };
    });
    // Counted, as a look at those in flight can come too late: the API is as busy with them as whoever looks.
    await expect.poll(cut, { timeout: 20_000 }).toBeGreaterThan(before + 100);
    await expect.poll(inFlight, { timeout: 20_000 }).toBe(0);
    // One that was between two pieces of its requests may be let live on: it took what there was.
    for (const { socket } of sockets) socket.resume();
    await Promise.race(sockets.map(({ closed }) => closed));
    for (const { socket } of sockets) socket.destroy();
  });

  it.each([1, 30])('that go away in the middle hold places until their work is done: %i', async (count) => {
    const hibernations = (): number => api.agent.calls.get('HibernateSandbox') ?? 0;
    const { body } = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
    const text = JSON.stringify({ memory: true });
    const pause = [
      `POST /sandboxes/${body.sandboxID}/pause HTTP/1.1\r\n${host}X-API-Key: ${api.key}\r\n`,
      `Content-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`,
    ].join('');
    const before = hibernations();
    let letGo = (): void => {};
    api.agent.held = new Promise((resolve) => {
      letGo = resolve;
    });
    try {
      const socket = connect({ host: '127.0.0.1', port }).on('error', () => {});
      socket.write(pause.repeat(count));
      await expect.poll(hibernations, { interval: 20 }).toBeGreaterThan(before);
      socket.destroy();
      await expect.poll(inFlight).toBe(1);
      await sleep(100);
      expect(await inFlight()).toBe(1);
    } finally {
      api.agent.held = undefined;
      letGo();
    }
    await expect.poll(inFlight).toBe(0);
    expect((await api.call('GET', `/sandboxes/${body.sandboxID}`)).body.state).toBe('paused');
    await api.call('DELETE', `/sandboxes/${body.sandboxID}`);
  });

  it('that go away with requests in line hold no place at the edge', async () => {
    const silent = createServer((socket) => void socket.on('error', () => {})).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const address = silent.address();
    const guestPort = typeof address === 'object' && address !== null ? address.port : 0;
    const { body } = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
    const passed = async () => {
      const metrics = await api.call('GET', '/metrics');
      return Number(/^wrenn_edge_connections (\d+)$/m.exec(metrics.body)?.[1]);
    };
    const socket = connect({ host: '127.0.0.1', port }).on('error', () => {});
    const headers = `E2b-Sandbox-Id: ${body.sandboxID}\r\nE2b-Sandbox-Port: ${guestPort}\r\n`;
    socket.write(`GET / HTTP/1.1\r\n${host}${headers}\r\n`.repeat(20));
    await expect.poll(passed).toBe(20);
    socket.destroy();
    await expect.poll(passed).toBe(0);
    silent.close();
    await api.call('DELETE', `/sandboxes/${body.sandboxID}`);
  });
});
