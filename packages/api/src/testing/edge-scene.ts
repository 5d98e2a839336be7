/** An edge over real sockets, with a guest that is a server of this process. */
import { once } from 'node:events';
import {
  type ClientRequest,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestOptions,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { afterEach, beforeEach } from 'vitest';
import type { EdgeDirectory, EdgeTarget } from '../directory.ts';
import { createEdge, type Edge, type EdgeOptions } from '../edge/edge.ts';

/** Of the one sandbox that there is. */
export const SANDBOX_ID = 'abcdefghij0123456789';

export interface Scene {
  guest: Server;
  guestSockets: Set<Socket>;
  front: Server;
  edge: Edge;
  /** What the guest does with a request; it says hello unless a test has it do something else. */
  serve: (incoming: IncomingMessage, outgoing: ServerResponse) => void;
  target: EdgeTarget | undefined;
  /** What finding the sandbox waits for. */
  waking: Promise<void> | undefined;
  exposing: ((port: number) => Promise<boolean>) | undefined;
  tellGone: (sandboxId: string) => void;
  logged: unknown[];
}

export interface Ask extends RequestOptions {
  /** Of the guest; that at which it listens else. */
  readonly to?: number;
}

export const portOf = (server: Server): number => (server.address() as AddressInfo).port;
export const listening = async (server: Server): Promise<Server> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
};

/** Made anew for each test of a file. */
export function useEdge(options: Pick<EdgeOptions, 'stallTimeoutMs' | 'bodyIdleTimeoutMs'> = {}): {
  readonly scene: Scene;
  ask(path: string, options?: Ask): ClientRequest;
} {
  const scene = {} as Scene;
  beforeEach(async () => {
    const guest = await listening(createServer((incoming, outgoing) => scene.serve(incoming, outgoing)));
    const guestSockets = new Set<Socket>();
    guest.on('connection', (socket) => {
      guestSockets.add(socket);
      socket.once('close', () => guestSockets.delete(socket));
    });
    const directory: EdgeDirectory = {
      find: async (id) => {
        await scene.waking;
        return id === SANDBOX_ID ? scene.target : undefined;
      },
      expose: async (_, port) => (await scene.exposing?.(port)) ?? false,
      onGone: (listener) => {
        scene.tellGone = listener;
        return () => {};
      },
    };
    const logged: unknown[] = [];
    const limits = { perSandbox: 8, total: 8, idleMs: 10_000 };
    const log = { info: (fields: unknown) => void logged.push(fields) };
    const edge = createEdge(
      { domain: 'wrenn.test', limits, bodyIdleTimeoutMs: 800, log, ...options },
      directory,
    );
    const front = createServer((incoming, outgoing) => {
      const address = edge.addressOf(incoming);
      if (address === undefined) outgoing.writeHead(418).end();
      else void edge.handle(address, incoming, outgoing);
    });
    front.on('upgrade', (incoming, socket, head) => {
      const address = edge.addressOf(incoming);
      if (address !== undefined) void edge.upgrade(address, incoming, socket, head);
    });
    const ends = { trafficToken: undefined, maskRequestHost: undefined };
    const target = { sandboxId: SANDBOX_ID, address: '127.0.0.1', ...ends };
    const serve: Scene['serve'] = (_, outgoing) => void outgoing.end('hello');
    await listening(front);
    const none = { waking: undefined, exposing: undefined };
    Object.assign(scene, { guest, guestSockets, front, edge, serve, target, logged, ...none });
  });
  afterEach(() => {
    scene.edge.close();
    for (const server of [scene.front, scene.guest]) {
      server.closeAllConnections();
      server.close();
    }
  });
  const ask = (path: string, options: Ask = {}): ClientRequest => {
    const { to = portOf(scene.guest), headers, ...rest } = options;
    const outgoing = request({
      host: '127.0.0.1',
      port: portOf(scene.front),
      path,
      headers: { host: `${to}-${SANDBOX_ID}.wrenn.test`, ...(headers as Record<string, string>) },
      agent: false,
      ...rest,
    });
    // What breaks after the answer has begun is told by the answer.
    outgoing.on('error', () => {});
    return outgoing;
  };
  return { scene, ask };
}

export interface Told {
  readonly status: number | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

export async function answerOf(outgoing: ClientRequest, body?: string | Buffer): Promise<Told> {
  outgoing.end(body);
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(chunks).toString() };
}
