/** The edge: requests for a port of a sandbox, passed on to the guest as they come. See README.md. */
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { constants, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2';
import type { Duplex } from 'node:stream';
import { WrennError } from '@wrenn/protocol';
import type { EdgeAccess, EdgeDirectory, EdgeTarget } from '../directory.ts';
import type { Logger } from '../log.ts';
import { closeOnceWritten } from '../refusals.ts';
import { createRequestId } from '../request-ids.ts';
import { whenOver } from '../when-over.ts';
import { refusal } from './access.ts';
import { addressOf, type EdgeAddress } from './address.ts';
import {
  badAnswer,
  badRequest,
  cannotBeWoken,
  type EdgeAnswer,
  lateAnswer,
  notFound,
  portClosed,
  renderAnswer,
  sendAnswer,
  tooMany,
  tooSlow,
} from './answers.ts';
import { endRest, passBody } from './body.ts';
import { type ConnectionLimits, createConnections, reset, resetStream } from './connections.ts';
import { hasUncountedBody, isHttp2, requestHeaders } from './headers.ts';
import { headOf, passAnswer } from './pass-answer.ts';
import { whenStalled } from './stalled.ts';

export interface EdgeOptions {
  /** Sandboxes are `<port>-<id>.<domain>`. */
  readonly domain: string;
  /** For the guest to take a connection. */
  readonly connectTimeoutMs?: number;
  /**
   * For the next piece of a request's body, and for all that is left of one when its answer is complete. Answers may be
   * silent for as long as they like.
   */
  readonly bodyIdleTimeoutMs?: number;
  /** For a client to take some of what waits for it. Long enough for one that is looked at in a debugger. */
  readonly stallTimeoutMs?: number;
  readonly limits?: ConnectionLimits;
  /** Told of each request when it is over: for whom and how long, and nothing that only its client should know. */
  readonly log?: Pick<Logger, 'info'>;
}

/** What was done about a request that could not be passed on. */
interface Tried {
  readonly again: boolean;
  readonly exposing: boolean;
}

type Request = IncomingMessage | Http2ServerRequest;
type Response = ServerResponse | Http2ServerResponse;

export interface Edge {
  /** Undefined for what is not the edge's. */
  addressOf(request: Request): EdgeAddress | undefined;
  handle(address: EdgeAddress, request: Request, response: Response): Promise<void>;
  upgrade(address: EdgeAddress, request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>;
  /** For /metrics. */
  counts(): { readonly open: number; readonly requests: number; readonly refused: number };
  close(): void;
}

const DEFAULT_LIMITS: ConnectionLimits = { perSandbox: 1024, total: 8192, idleMs: 60_000 };
// biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
const PORT_PLACEHOLDER = '${PORT}';
const REPEATABLE: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS']);

export function createEdge(options: EdgeOptions, directory: EdgeDirectory): Edge {
  const {
    domain,
    connectTimeoutMs = 5_000,
    bodyIdleTimeoutMs = 120_000,
    stallTimeoutMs = 600_000,
    log,
  } = options;
  const connections = createConnections(options.limits ?? DEFAULT_LIMITS);
  const stopListening = directory.onGone(connections.cutAll);
  let [requests, refused] = [0, 0];

  /** The target, or what is said instead. */
  const admit = async (
    { sandboxId, port }: EdgeAddress,
    request: Request,
    signal: AbortSignal,
  ): Promise<EdgeTarget | EdgeAnswer> => {
    requests += 1;
    const refused = (access: EdgeAccess) => refusal(access, port, request.url ?? '', request.headers);
    let asStranger: EdgeAnswer | undefined;
    const mayWake = (access: EdgeAccess): boolean => {
      asStranger = refused(access);
      return asStranger === undefined;
    };
    const found = connections.wait(sandboxId);
    if (found === undefined) return tooMany(sandboxId);
    try {
      const target = await directory.find(sandboxId, mayWake, signal);
      if (target === undefined) return asStranger ?? notFound(sandboxId);
      return refused(target) ?? target;
    } catch (error) {
      // It is there: nobody should take it for one that is gone.
      return cannotBeWoken(sandboxId, WrennError.from(error).kind === 'exhausted');
    } finally {
      found();
    }
  };

  const expose = (target: EdgeTarget, port: number, signal: AbortSignal): Promise<boolean> =>
    directory.expose(target, port, signal).catch(() => false);

  const open = (
    target: EdgeTarget,
    port: number,
    request: Request,
    change?: { readonly protocol: string },
  ) => {
    const message = request as IncomingMessage;
    const asked = authorityOf(message);
    const host = target.maskRequestHost?.replaceAll(PORT_PLACEHOLDER, String(port)) ?? asked;
    const socket = message.socket;
    return httpRequest({
      // What is to become another protocol is never a connection for the next request, whatever comes of it.
      agent: change === undefined && connections.agentOf(target.sandboxId),
      host: target.address,
      port,
      method: message.method,
      path: message.url,
      setHost: false,
      headers: {
        ...requestHeaders(message, {
          host,
          askedHost: asked,
          clientAddress: socket?.remoteAddress,
          isTls: socket !== undefined && 'encrypted' in socket,
          protocol: change?.protocol,
        }),
      },
    });
  };

  const handle: Edge['handle'] = async (address, request, response) => {
    const asked = request.headers;
    const requestId = createRequestId();
    const gone = new AbortController();
    const beganMs = performance.now();
    whenOver(request, response, () => {
      gone.abort();
      log?.info(
        {
          requestId,
          ...address,
          method: request.method,
          status: response.headersSent ? response.statusCode : 0,
          ...(response.writableFinished ? {} : { aborted: true }),
          durationMs: Math.round(performance.now() - beganMs),
        },
        'edge request',
      );
    });
    // A response of HTTP/2 says so when its stream is closed, which the client can put off.
    const written = isHttp2(response) ? response.stream : response;
    written.once('finish', () => endRest(request, bodyIdleTimeoutMs));
    const say = (what: EdgeAnswer): void => {
      refused += 1;
      if (response.headersSent) cutClient();
      else sendAnswer(response, what, asked, requestId);
      // The rest of a body that nobody wants would hold the connection up.
      if (!request.complete) request.unpipe?.();
      request.resume();
    };
    const cutClient = (): void => {
      if (isHttp2(response)) resetStream(response.stream, constants.NGHTTP2_INTERNAL_ERROR);
      else reset(request.socket);
    };
    whenStalled(response, stallTimeoutMs, cutClient);
    const admitted = await admit(address, request, gone.signal);
    if (gone.signal.aborted) return;
    if ('status' in admitted) return say(admitted);

    const { sandboxId, port } = { ...address, sandboxId: admitted.sandboxId };
    let upstream: ReturnType<typeof open> | undefined;
    const over = connections.open(sandboxId, () => {
      upstream?.destroy();
      cutClient();
    });
    if (over === undefined) return say(tooMany(sandboxId));
    whenOver(request, response, () => {
      over();
      upstream?.destroy();
    });

    const attempt = (tried: Tried): void => {
      const outgoing = opened(() => open(admitted, port, request));
      if (outgoing === undefined) {
        say(badRequest(sandboxId));
        return;
      }
      upstream = outgoing;
      const isLate = whenConnected(outgoing, connectTimeoutMs, () =>
        passBody(request, outgoing, bodyIdleTimeoutMs, () => {
          // Its end is of no interest: the client is told why.
          upstream = undefined;
          say(tooSlow(sandboxId));
        }),
      );
      outgoing.once('response', (answer) => {
        if (passAnswer(answer, response, cutClient)) return;
        outgoing.destroy();
        say(badAnswer(sandboxId, port));
      });
      // Nobody has asked for another protocol.
      outgoing.once('upgrade', (_answer, guest) => {
        guest.destroy();
        say(badAnswer(sandboxId, port));
      });
      outgoing.once('error', async (error) => {
        if (gone.signal.aborted || outgoing !== upstream) return;
        if (response.headersSent) return cutClient();
        const code = codeOf(error);
        // The guest closed an idle connection at the moment of its next use: nothing of the request was read.
        const isStale = outgoing.reusedSocket && code === 'ECONNRESET';
        if (isStale && !tried.again && isRepeatable(request)) return attempt({ ...tried, again: true });
        if (code === 'ECONNREFUSED' && !tried.exposing) {
          const isExposed = await expose(admitted, port, gone.signal);
          if (gone.signal.aborted) return;
          if (isExposed) return attempt({ ...tried, exposing: true });
        }
        say(isLate() ? lateAnswer(sandboxId, port) : portClosed(sandboxId, port));
      });
    };
    attempt({ again: false, exposing: false });
  };

  const upgrade: Edge['upgrade'] = async (address, request, socket, head) => {
    const requestId = createRequestId();
    const gone = new AbortController();
    const beganMs = performance.now();
    let status = 0;
    socket.once('close', () => {
      gone.abort();
      const durationMs = Math.round(performance.now() - beganMs);
      log?.info({ requestId, ...address, method: 'UPGRADE', status, durationMs }, 'edge request');
    });
    socket.on('error', () => socket.destroy());
    whenStalled(request.socket, stallTimeoutMs, () => reset(request.socket));
    const say = (what: EdgeAnswer): void => {
      refused += 1;
      status = what.status;
      const { headers, text } = renderAnswer(what, request.headers, requestId);
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
      closeOnceWritten(socket);
      socket.end([`HTTP/1.1 ${what.status} -`, ...lines, 'Connection: close', '', text].join('\r\n'));
    };
    const admitted = await admit(address, request, gone.signal);
    if (gone.signal.aborted) return;
    if ('status' in admitted) return say(admitted);
    const { sandboxId } = admitted;
    const protocol = request.headers.upgrade ?? 'websocket';
    let upstream: ReturnType<typeof open> | undefined;
    const over = connections.open(sandboxId, () => {
      upstream?.destroy();
      reset(request.socket);
    });
    if (over === undefined) return say(tooMany(sandboxId));
    socket.once('close', () => {
      over();
      upstream?.destroy();
    });
    const attempt = (isLast: boolean): void => {
      const outgoing = opened(() => open(admitted, address.port, request, { protocol }));
      if (outgoing === undefined) {
        say(badRequest(sandboxId));
        return;
      }
      upstream = outgoing;
      const isLate = whenConnected(outgoing, connectTimeoutMs, () => outgoing.end());
      outgoing.once('error', async (error) => {
        if (gone.signal.aborted) return;
        // What it has said so far is no refusal's to go on with.
        if (status !== 0) return reset(request.socket);
        if (codeOf(error) === 'ECONNREFUSED' && !isLast) {
          const isExposed = await expose(admitted, address.port, gone.signal);
          if (gone.signal.aborted) return;
          if (isExposed) return attempt(true);
        }
        say(isLate() ? lateAnswer(sandboxId, address.port) : portClosed(sandboxId, address.port));
      });
      // It did not want to change the protocol: what it says instead goes back as it is, and that is the end.
      outgoing.once('response', (answer) => {
        status = answer.statusCode ?? 0;
        closeOnceWritten(socket);
        socket.write(headOf(answer, { Connection: 'close' }), 'latin1');
        answer.pipe(socket);
        answer.once('error', () => reset(request.socket));
      });
      outgoing.once('upgrade', (answer, guest, guestHead) => {
        status = 101;
        const own = { Connection: 'Upgrade', Upgrade: answer.headers.upgrade ?? '' };
        socket.write(headOf(answer, own), 'latin1');
        if (guestHead.length > 0) socket.write(guestHead);
        if (head.length > 0) guest.write(head);
        guest.on('error', () => reset(request.socket));
        guest.once('close', () => socket.destroy());
        socket.once('close', () => guest.destroy());
        guest.pipe(socket);
        socket.pipe(guest);
      });
    };
    attempt(false);
  };

  return {
    addressOf: (request) => addressOf({ host: authorityOf(request), headers: request.headers }, domain),
    handle,
    upgrade,
    counts: () => ({ open: connections.count(), requests, refused }),
    close: () => {
      stopListening();
      connections.close();
    },
  };
}

function authorityOf(request: Request): string | undefined {
  const authority = request.headers[':authority'];
  return typeof authority === 'string' ? authority : request.headers.host;
}

/**
 * Goes on once there is a connection: what is sent before would be lost with one that is refused. Ends a request that
 * the guest's side has not taken in time; the result tells whether it did.
 */
function whenConnected(
  outgoing: ReturnType<typeof httpRequest>,
  timeoutMs: number,
  goOn: () => void,
): () => boolean {
  let isLate = false;
  outgoing.once('socket', (socket) => {
    if (!socket.connecting) return goOn();
    const timer = setTimeout(() => {
      isLate = true;
      outgoing.destroy();
    }, timeoutMs);
    const stop = (): void => clearTimeout(timer);
    socket.once('connect', goOn).once('connect', stop).once('close', stop);
  });
  return () => isLate;
}

function isRepeatable(request: Request): boolean {
  const hasBody = request.headers['content-length'] !== undefined || hasUncountedBody(request);
  return REPEATABLE.has(request.method ?? '') && !hasBody;
}

/** Node refuses some of what its parsers let through, and does so by throwing. */
function opened<T>(open: () => T): T | undefined {
  try {
    return open();
  } catch {
    return undefined;
  }
}

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : '';
}
