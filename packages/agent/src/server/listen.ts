/**
 * Connect RPC over HTTP/2 on a unix socket that its owner and one group at most may open. What is on the other side may be
 * anything: messages, streams, requests and connections are bounded, and junk ends its connection, not us.
 */
import { chmod, lchown, rm } from 'node:fs/promises';
import {
  createServer,
  type Http2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  constants as http2Constants,
  type ServerHttp2Session,
} from 'node:http2';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ConnectRouter, createConnectRouter } from '@connectrpc/connect';
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from '@connectrpc/connect-node';
import { type ErrorCode, WrennError } from '@wrenn/protocol';
import type { AgentConfig } from '../config/schema.ts';
import type { Logger } from '../sandbox/log.ts';
import { createInterceptor } from './interceptor.ts';
import { withOwnError } from './own-errors.ts';

export interface ListenOptions {
  readonly socketPath: string;
  readonly limits: AgentConfig['server'];
  readonly routes: (router: ConnectRouter) => void;
  readonly log: Logger;
  readonly onRequestEnded: (method: string, code: ErrorCode | 'ok') => void;
}

export interface Listening {
  /** When a request last began or ended, by performance.now(), and how many are under way. */
  activity(): { readonly lastAtMs: number; readonly requests: number };
  /** Takes nothing new, gives what is under way so long to end, and removes the socket. */
  close(graceMs: number): Promise<void>;
}

type Handlers = ReadonlyMap<string, ConnectRouter['handlers'][number]>;

/** What may arrive of one stream, and of one connection, before anybody reads it. */
const STREAM_WINDOW_BYTES = 512 * 1024;
const CONNECTION_WINDOW_BYTES = 8 * 1024 * 1024;
const CONNECTION_MEMORY_MB = 64;
const HEADERS_MAX_BYTES = 16 * 1024;
const INVALID_FRAMES_MAX = 100;
const PROBE_TIMEOUT_MS = 500;
const CLOSE_POLL_MS = 10;
const DROP_REST_MS = 60_000;

/** The caller holds the lock of its directory: a socket on which nobody answers is that of a dead agent. */
export async function listen(options: ListenOptions): Promise<Listening> {
  const { socketPath, limits, log } = options;
  if (await answers(socketPath)) {
    throw new WrennError('agent_already_running', `Something listens on ${socketPath} already.`, {
      hint: 'Use that agent, or set WRENN_SOCKET to another path.',
    });
  }
  await rm(socketPath, { force: true });

  let requests = 0;
  let lastAtMs = performance.now();
  const count = (change: 1 | -1): void => {
    requests += change;
    lastAtMs = performance.now();
  };
  const handlers = handlersOf(options, () => requests > limits.maxConcurrentRequests);
  const sessions = new Set<ServerHttp2Session>();
  const server = createServer(
    {
      settings: {
        initialWindowSize: STREAM_WINDOW_BYTES,
        maxConcurrentStreams: limits.maxConcurrentRequests,
        maxHeaderListSize: HEADERS_MAX_BYTES,
      },
      maxSessionInvalidFrames: INVALID_FRAMES_MAX,
      maxSessionMemory: CONNECTION_MEMORY_MB,
    },
    (request, response) => {
      count(1);
      whenAnswered(request, () => count(-1));
      void serve(handlers, request, response, log);
    },
  );
  server.maxConnections = limits.maxConnections;
  server.on('sessionError', (err) => log.debug({ err }, 'a connection broke'));
  server.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
  });

  await bind(server, socketPath, limits.socketGid);
  return {
    activity: () => ({ lastAtMs, requests }),
    close: async (graceMs) => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await rm(socketPath, { force: true });
      const deadline = performance.now() + graceMs;
      while (requests > 0 && performance.now() < deadline) await sleep(CLOSE_POLL_MS);
      for (const session of sessions) session.destroy();
      await closed;
    },
  };
}

/** Once the answer is whole, or its stream is gone. */
function whenAnswered({ stream }: Http2ServerRequest, onAnswered: () => void): void {
  let open = true;
  const close = (): void => {
    if (open) onAnswered();
    open = false;
  };
  stream.once('finish', close);
  stream.once('close', close);
}

function handlersOf(options: ListenOptions, isOverloaded: () => boolean): Handlers {
  const router = createConnectRouter({
    grpc: false,
    grpcWeb: false,
    acceptCompression: [],
    readMaxBytes: options.limits.maxMessageBytes,
    interceptors: [createInterceptor({ ...options, isOverloaded })],
  });
  options.routes(router);
  return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
}

async function serve(
  handlers: Handlers,
  request: Http2ServerRequest,
  response: Http2ServerResponse,
  log: Logger,
): Promise<void> {
  // Without these a broken stream would be an uncaught error.
  request.on('error', (err) => log.debug({ err }, 'a request broke'));
  response.on('error', (err) => log.debug({ err }, 'an answer broke'));
  request.stream.once('finish', () => {
    if (!request.readableEnded) dropRest(request);
  });
  try {
    const handler = handlers.get(request.url.split('?', 1)[0] ?? '');
    if (handler === undefined) {
      response.writeHead(404).end();
      return;
    }
    // Whoever stops reading in the middle (a message is too large) still has an answer to give.
    const body = request.iterator({ destroyOnReturn: false });
    const asked = universalRequestFromNodeRequest(request, response, undefined, undefined);
    const answer = await handler({ ...asked, body });
    await universalResponseToNodeResponse(await withOwnError(answer), response);
  } catch (err) {
    // Either its caller has gone, or it is no request at all.
    log.debug({ err }, 'a request could not be answered');
    request.stream.close(http2Constants.NGHTTP2_INTERNAL_ERROR);
  }
}

/**
 * An answer may be whole before its request is. Resetting the stream would make the client lose what it has
 * not read of the answer yet; so the rest is taken and dropped for a while, as fast as it comes.
 */
function dropRest(request: Http2ServerRequest): void {
  const timer = setTimeout(() => request.stream.destroy(), DROP_REST_MS);
  request.stream.once('close', () => clearTimeout(timer));
  // Whoever read it so far has stopped, and would hold it up.
  request.removeAllListeners('readable');
  request.resume();
}

/** Nobody but the owner and the group can open it, at no time: the mask is set while it is made. */
async function bind(server: Http2Server, socketPath: string, gid: number | undefined): Promise<void> {
  const mask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ path: socketPath }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } finally {
    process.umask(mask);
  }
  if (gid !== undefined) await lchown(socketPath, process.geteuid?.() ?? 0, gid);
  await chmod(socketPath, gid === undefined ? 0o600 : 0o660);
}

/** Whether anybody listens there. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path: socketPath });
    const finish = (answered: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answered);
    };
    const timer = setTimeout(() => finish(true), PROBE_TIMEOUT_MS);
    socket.once('connect', () => finish(true));
    socket.once('error', () => finish(false));
  });
}
