/** A client against guests that do their worst. Real sockets on loopback; every wait is short. */
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTcpServer, type Socket, type Server as TcpServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { afterEach, describe, expect, it } from 'vitest';
import { createEnvdClient, type EnvdClient } from './client.ts';
import { guestText } from './guest-errors.ts';

const never = new AbortController().signal;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function portOf(server: Server | TcpServer): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** Where it is the time that is to run out; everywhere else a busy machine may take its own. */
const IMPATIENT_MS = 300;
const PATIENT_MS = 15_000;

function clientOf(server: Server | TcpServer, timeoutMs: number): EnvdClient {
  const client = createEnvdClient({
    host: '127.0.0.1',
    port: portOf(server),
    accessToken: 'secret',
    requestTimeoutMs: timeoutMs,
    stallMs: timeoutMs,
  });
  closers.push(() => client.close());
  return client;
}

async function http(listener: RequestListener, timeoutMs = PATIENT_MS): Promise<EnvdClient> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return clientOf(server, timeoutMs);
}

async function tcp(onSocket: (socket: Socket) => void, timeoutMs = PATIENT_MS): Promise<EnvdClient> {
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return clientOf(server, timeoutMs);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'no error';
  } catch (error) {
    return error instanceof WrennError ? error.code : `not ours: ${String(error)}`;
  }
}

const process = {
  command: ['x'],
  envs: {},
  cwd: undefined,
  user: undefined,
  terminal: undefined,
  stdin: false,
};

async function drain(stream: AsyncIterable<unknown>): Promise<number> {
  let n = 0;
  for await (const _ of stream) n++;
  return n;
}

const settings = { envs: {}, defaultUser: 'user', defaultWorkdir: '/' };

describe('health', () => {
  it('is noticed soon after the guest comes up, and not before', async () => {
    let up = false;
    const client = await http((_request, response) => {
      response.writeHead(up ? 204 : 503).end();
    });
    let noticedAt = 0;
    const waiting = client.waitUntilHealthy(15_000, never).then(() => {
      noticedAt = performance.now();
    });
    await sleep(300);
    expect(noticedAt).toBe(0);
    up = true;
    const upAt = performance.now();
    await waiting;
    expect(noticedAt - upAt).toBeLessThan(3000);
  });

  it('is not waited for beyond the deadline, or after an abort', async () => {
    const silent = await tcp(() => {});
    expect(await codeOf(silent.waitUntilHealthy(150, never))).toBe('guest_unreachable');
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 30);
    expect(await codeOf(silent.waitUntilHealthy(60_000, abort.signal))).toBe('cancelled');
  });

  it('is not found in a redirect or in noise', async () => {
    const redirecting = await http((_request, response) => {
      response.writeHead(302, { Location: 'http://127.0.0.1:1/health' }).end();
    });
    expect(await codeOf(redirecting.waitUntilHealthy(150, never))).toBe('guest_unreachable');
    const noisy = await tcp((socket) => socket.write('\0\xff not http\r\n\r\n'.repeat(100)));
    expect(await codeOf(noisy.waitUntilHealthy(150, never))).toBe('guest_unreachable');
  });
});

describe('questions', () => {
  it('are given up when the guest does not answer', async () => {
    const silent = await tcp(() => {}, IMPATIENT_MS);
    const codes = await Promise.all([
      codeOf(silent.stat('/x', undefined, never)),
      codeOf(silent.init(settings, never)),
      codeOf(silent.sendSignal(1, 9, never)),
      codeOf(silent.readFile('/x', undefined, never)),
    ]);
    for (const code of codes) expect(['deadline_exceeded', 'guest_unreachable']).toContain(code);
  });

  it('are given up when the guest answers for ever', async () => {
    const flooding = await http((_request, response) => {
      response.writeHead(200, { 'Content-Type': 'application/proto' });
      const chunk = Buffer.alloc(1024 * 1024);
      const push = (): void => {
        while (!response.destroyed && response.write(chunk));
        if (!response.destroyed) response.once('drain', push);
      };
      push();
    });
    const before = globalThis.process.memoryUsage.rss();
    for (const work of [
      () => flooding.stat('/x', undefined, never),
      () => flooding.list('/', 1, undefined, never),
    ]) {
      expect(['guest_protocol', 'deadline_exceeded']).toContain(await codeOf(work()));
    }
    expect(await codeOf(flooding.init(settings, never))).toBe('guest_protocol');
    expect(globalThis.process.memoryUsage.rss() - before).toBeLessThan(200 * 1024 * 1024);
  });

  it('do not follow the guest elsewhere', async () => {
    let hits = 0;
    const client = await http((request, response) => {
      hits++;
      response.writeHead(307, { Location: `http://127.0.0.1:1${request.url}` }).end();
    });
    expect(await codeOf(client.stat('/x', undefined, never))).not.toBe('no error');
    expect(await codeOf(client.readFile('/x', undefined, never))).toBe('guest_protocol');
    expect(hits).toBe(2);
  });

  it('get clear errors for nonsense', async () => {
    const client = await http((_request, response) => {
      response.writeHead(200, { 'Content-Type': 'text/html' }).end('<h1>hello</h1>');
    });
    const works = [
      () => client.stat('/x', undefined, never),
      () => client.init(settings, never),
      () => drain(client.startProcess(process, never)),
      () => client.writeFile('/x', undefined, (async function* () {})(), never),
    ];
    for (const work of works) expect(['guest_protocol', 'guest_unreachable']).toContain(await codeOf(work()));
  });

  it('carry the token and the user', async () => {
    const seen: (string | undefined)[] = [];
    const client = await http(({ headers }, response) => {
      seen.push(String(headers['x-access-token']), headers.authorization);
      response.writeHead(401, { 'Content-Type': 'application/json' });
      response.end('{"code":"unauthenticated","message":"invalid username: \'x\'"}');
    });
    expect(await codeOf(client.stat('/x', 'root', never))).toBe('user_not_found');
    expect(seen).toEqual(['secret', `Basic ${Buffer.from('root:').toString('base64')}`]);
  });
});

describe('streams', () => {
  it('end when the guest breaks them off, announces too much, or never ends a frame', async () => {
    const frames = [
      Buffer.from([0, 0xff, 0xff, 0xff, 0xff]),
      Buffer.from([0, 0, 0, 0, 9, 1, 2]),
      Buffer.from([1, 0, 0, 0, 1, 1]),
      Buffer.from([2, 0, 0, 0, 3, 0x7b, 0x7b, 0x7b]),
      Buffer.alloc(0),
    ];
    for (const frame of frames) {
      const client = await http((_request, response) => {
        response.writeHead(200, { 'Content-Type': 'application/connect+proto' });
        response.write(frame);
        setTimeout(() => response.destroy(), 20);
      });
      const code = await codeOf(drain(client.startProcess(process, never)));
      expect(['guest_protocol', 'guest_unreachable', 'invalid_argument'], frame.toString('hex')).toContain(
        code,
      );
    }
  });

  it('end with their signal, and with its reason', async () => {
    const client = await http((_request, response) => {
      response.writeHead(200, { 'Content-Type': 'application/connect+proto' }).flushHeaders();
    });
    const abort = new AbortController();
    const work = codeOf(drain(client.startProcess(process, abort.signal)));
    await sleep(30);
    abort.abort(new WrennError('sandbox_failed', 'it died'));
    expect(await work).toBe('sandbox_failed');
  });
});

describe('files', () => {
  it('are read at the pace of the reader', async () => {
    let sent = 0;
    const client = await http((_request, response) => {
      response.writeHead(200);
      const chunk = Buffer.alloc(256 * 1024);
      const push = (): void => {
        while (!response.destroyed) {
          sent += chunk.length;
          if (!response.write(chunk)) break;
        }
        response.once('drain', push);
      };
      push();
    });
    const body = await client.readFile('/x', undefined, never);
    await body.next();
    for (let before = -1; before !== sent && sent < 32 * 1024 * 1024; ) {
      before = sent;
      await sleep(200);
    }
    expect(sent).toBeLessThan(32 * 1024 * 1024);
    await body.return(undefined);
  });

  it('are an error when they stop half way', async () => {
    const stalled = await http((_request, response) => {
      response.writeHead(200, { 'Content-Length': '100' }).write('half');
    }, IMPATIENT_MS);
    const reading = async () => drain(await stalled.readFile('/x', undefined, never));
    expect(await codeOf(reading())).toBe('guest_unreachable');
    const cut = await http((_request, response) => {
      response.writeHead(200, { 'Content-Length': '100' }).write('half');
      setTimeout(() => response.destroy(), 20);
    });
    expect(await codeOf(drain(await cut.readFile('/x', undefined, never)))).toBe('guest_unreachable');
  });

  it('are written at the pace of the guest, and given up when it stands still', async () => {
    let taken = 0;
    const client = await http((request) => {
      request.pause();
    }, IMPATIENT_MS);
    async function* endless() {
      for (;;) {
        taken++;
        yield new Uint8Array(64 * 1024);
      }
    }
    expect(await codeOf(client.writeFile('/x', undefined, endless(), never))).toBe('guest_unreachable');
    expect(taken).toBeLessThan(500);
  });

  it('that the guest answers early hold no connection', async () => {
    let open = 0;
    const client = await tcp((socket) => {
      open += 1;
      socket.on('close', () => {
        open -= 1;
      });
      const text = JSON.stringify([{ path: '/x' }]);
      socket.once('data', () =>
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`),
      );
    });
    async function* unfinished() {
      yield new Uint8Array(10);
      await new Promise(() => {});
    }
    expect(await client.writeFile('/x', undefined, unfinished(), never)).toBe('/x');
    await expect.poll(() => open).toBe(0);
  });

  it('are refused with the reason of the guest, made harmless', async () => {
    const client = await http((request, response) => {
      request.resume();
      const message = `no \u001b[31mspace\n${'x'.repeat(1000)}`;
      response.writeHead(507).end(JSON.stringify({ code: 507, message }));
    });
    async function* some() {
      yield new Uint8Array(10);
    }
    try {
      await client.writeFile('/x', undefined, some(), never);
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ code: 'disk_full' });
      expect(String(error)).not.toContain('\u001b');
      expect(String(error).length).toBeLessThan(600);
    }
  });
});

it('what a guest says has no control characters and no length', () => {
  expect(guestText('a\u001b[2J\u202eb\n')).toBe('a\\u{1b}[2J\\u{202e}b\\u{a}');
  expect(guestText('x'.repeat(10_000)).length).toBeLessThan(400);
});
