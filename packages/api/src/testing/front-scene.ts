/** A front over real sockets, with HTTP/2 and TLS, and a guest that is a server of this process. */
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from 'node:http2';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import { apiConfigSchema } from '../config/schema.ts';
import { createEdge, type Edge } from '../edge/edge.ts';
import { createFront, type Front } from '../front.ts';
import { type Certificates, openCertificates } from '../tls/certificates.ts';
import { listening, portOf, SANDBOX_ID } from './edge-scene.ts';

export const DOMAIN = 'wrenn.localhost';

export interface FrontScene {
  /** Of the authority that has signed the server's certificate. */
  ca: Buffer;
  guest: Server;
  guestSockets: Set<Socket>;
  edge: Edge;
  front: Front;
  server: Server;
  /** A client's. */
  session: ClientHttp2Session;
  /** What the guest does with a request; it says hello unless a test has it do something else. */
  serve: (incoming: IncomingMessage, outgoing: ServerResponse) => void;
  tellGone: (sandboxId: string) => void;
  /** Shows another certificate from now on. */
  tellChange: Parameters<Certificates['onChange']>[0];
}

/** Made anew for each test of a file, but for the authority. */
export function useFront() {
  const scene = {} as FrontScene;
  const dir = mkdtempSync(join(tmpdir(), 'wrenn-front-'));
  const config = apiConfigSchema.parse({
    tls: 'development',
    domain: DOMAIN,
    store: { dataDir: join(dir, 'store') },
    requests: { requestTimeoutMs: 300, keepAliveTimeoutMs: 5000, headersTimeoutMs: 5000 },
  });
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  let certificates: Certificates;

  /** Another one of the same authority, each time. */
  const newCertificates = async (): Promise<Certificates> => {
    const made = await openCertificates(config, log);
    if (made === undefined) throw new Error('no certificate');
    return made;
  };
  /** Another connection. */
  const opened = (): ClientHttp2Session => {
    const { server, ca } = scene;
    const made = connect(`https://127.0.0.1:${portOf(server)}`, { ca, servername: `api.${DOMAIN}` });
    made.on('error', () => {});
    return made;
  };

  beforeAll(async () => {
    certificates = await newCertificates();
    if (certificates.authority === undefined) throw new Error('no authority');
    scene.ca = readFileSync(certificates.authority.certificateFile);
  });
  afterAll(() => {
    certificates.close();
    rmSync(dir, { recursive: true });
  });

  beforeEach(async () => {
    scene.serve = (_, outgoing) => outgoing.end('hello');
    scene.guest = await listening(createServer((incoming, outgoing) => scene.serve(incoming, outgoing)));
    scene.guestSockets = new Set();
    scene.guest.on('connection', (socket) => {
      scene.guestSockets.add(socket);
      socket.once('close', () => scene.guestSockets.delete(socket));
    });
    const ends = { trafficToken: undefined, maskRequestHost: undefined };
    scene.edge = createEdge(
      { domain: DOMAIN, bodyIdleTimeoutMs: 4000, limits: { perSandbox: 300, total: 300, idleMs: 10_000 } },
      {
        find: async (id) =>
          id === SANDBOX_ID ? { sandboxId: SANDBOX_ID, address: '127.0.0.1', ...ends } : undefined,
        expose: async () => false,
        onGone: (listener) => {
          scene.tellGone = listener;
          return () => {};
        },
      },
    );
    const onChange: Certificates['onChange'] = (listener) => {
      scene.tellChange = listener;
    };
    const { current, authority, reload, close } = certificates;
    const shown = { current, authority, reload, close, onChange };
    scene.front = createFront({ edge: scene.edge, config: config.requests, certificates: shown });
    const server = scene.front.serve((incoming, outgoing) => {
      incoming.resume();
      incoming.once('end', () => outgoing.end(`api ${incoming.httpVersion}`));
    });
    scene.server = await listening(server);
    scene.session = opened();
  });

  afterEach(() => {
    scene.session.destroy();
    scene.edge.close();
    scene.front.cut();
    scene.guest.closeAllConnections();
    for (const each of [scene.server, scene.guest]) each.close();
  });

  /** Asks the guest, at the port at which it listens unless another one is given. */
  const ask = (
    path: string,
    headers: OutgoingHttpHeaders = {},
    to = portOf(scene.guest),
  ): ClientHttp2Stream => {
    const authority = `${to}-${SANDBOX_ID}.${DOMAIN}:${portOf(scene.server)}`;
    const hasBody = !['GET', undefined].includes(headers[':method'] as string | undefined);
    return scene.session.request(
      { ':path': path, ':authority': authority, ...headers },
      { endStream: !hasBody },
    );
  };

  return { scene, ask, opened, newCertificates };
}

export async function answerOf(stream: ClientHttp2Stream, body?: string) {
  if (body !== undefined) stream.end(body);
  const [headers] = (await once(stream, 'response')) as [IncomingHttpHeaders & { ':status'?: number }];
  let text = '';
  for await (const chunk of stream) text += chunk;
  return { status: headers[':status'], headers, text };
}

/** How a stream ended. */
export async function endOf(
  stream: ClientHttp2Stream,
): Promise<{ text: string; rstCode: number; error: string }> {
  let [text, error] = ['', ''];
  stream.on('data', (chunk) => {
    text += chunk;
  });
  stream.on('error', (cause: NodeJS.ErrnoException) => {
    error = cause.code ?? '';
  });
  if (!stream.closed) await new Promise((resolve) => stream.once('close', resolve));
  return { text, rstCode: stream.rstCode ?? 0, error };
}
