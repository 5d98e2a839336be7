/** Routes on Fastify: who asks, what is asked, and one form for every error, the parser's own included. */
import type { RequestListener, Server } from 'node:http';
import type { Socket } from 'node:net';
import { WrennError } from '@wrenn/protocol';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { ZodType } from 'zod';
import type { ApiConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { Doorkeeper, Visitor } from './auth.ts';
import { DOCS_POLICY } from './docs-page.ts';
import { invalid, toAnswer } from './errors.ts';
import type { ApiMetrics } from './prometheus.ts';
import type { Answer, Route } from './route.ts';

export interface RestDeps {
  readonly routes: readonly Route[];
  readonly config: ApiConfig['requests'];
  readonly doorkeeper: Doorkeeper;
  readonly metrics: ApiMetrics;
  readonly log: Logger;
  /** The server that hands requests over; its time-outs are its own. */
  readonly front: (api: RequestListener) => Server;
}

const PARAM_MAX_CHARS = 512;
const NOBODY = {
  keyId: '',
  teamId: '',
  admin: false,
  limits: { maxSandboxes: 0, createsPerMinute: 1, maxVcpus: 1, maxMemoryMib: 64, maxRequestsInFlight: 1 },
};

export function createRestServer({
  routes,
  config,
  doorkeeper,
  metrics,
  log,
  front,
}: RestDeps): FastifyInstance {
  const server = fastify({
    bodyLimit: config.bodyMaxBytes,
    forceCloseConnections: 'idle',
    exposeHeadRoutes: false,
    requestIdHeader: false,
    routerOptions: { maxParamLength: PARAM_MAX_CHARS },
    serverFactory: front,
    clientErrorHandler: answerBrokenRequest,
    frameworkErrors: (error, _request, reply) => void send(reply, answerOf(error)),
  });
  server.server.maxConnections = config.maxConnections;
  const visitors = new WeakMap<FastifyRequest, Visitor>();
  const secureParse = server.getDefaultJsonParser('error', 'error');
  server.removeAllContentTypeParsers();
  server.addContentTypeParser('application/json', { parseAs: 'string' }, (request, text, done) => {
    // SDKs send the type with an empty body, too.
    if (text === '') done(null, undefined);
    else secureParse(request, String(text), done);
  });

  server.addHook('onResponse', async (request, reply) => {
    visitors.get(request)?.leave();
    const { method, routeOptions, id: requestId } = request;
    const route = routeOptions.url ?? 'none';
    metrics.answered(route === 'none' ? 'none' : method, route, reply.statusCode, reply.elapsedTime);
    const sandboxId = sandboxOf(request);
    const fields = { requestId, ...(sandboxId === undefined ? {} : { sandboxId }) };
    const durationMs = Math.round(reply.elapsedTime);
    log.info({ ...fields, method, route, status: reply.statusCode, durationMs }, 'request');
  });
  server.addHook('onRequestAbort', async (request) => visitors.get(request)?.leave());
  server.setErrorHandler((error, request, reply) => {
    const answer = answerOf(error);
    if (answer.status >= 500) {
      log.error({ err: error, requestId: request.id, sandboxId: sandboxOf(request) }, 'a request failed');
    }
    return send(reply, answer);
  });
  server.setNotFoundHandler((_request, reply) =>
    send(reply, plainError(404, 'There is no such path or method.')),
  );

  for (const route of routes) {
    const { spec } = route;
    server.route({
      method: spec.method,
      url: spec.path.replaceAll(/\{(\w+)\}/g, ':$1'),
      onRequest: async (request, reply) => {
        reply.header('x-request-id', request.id);
        if (spec.access === 'open') return;
        const visitor = await doorkeeper.admit(request.headers);
        visitors.set(request, visitor);
        if (spec.access === 'admin' && !visitor.caller.admin) {
          throw new WrennError('not_permitted', 'Only an admin key may do this.');
        }
      },
      handler: async (request, reply) => {
        const visitor = visitors.get(request);
        const given = request.body ?? (spec.bodyOptional === true ? {} : undefined);
        const answer = await route.handle({
          params: parse(spec.params, request.params),
          query: parse(spec.query, request.query),
          body: parse(spec.body, given),
          caller: visitor?.caller ?? NOBODY,
          secret: visitor?.secret ?? '',
        });
        return send(reply, answer);
      },
    });
  }
  return server;
}

function parse(schema: ZodType | undefined, value: unknown): unknown {
  if (schema === undefined) return undefined;
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalid(parsed.error);
}

function send(reply: FastifyReply, { status, body, headers = {}, contentType }: Answer): FastifyReply {
  reply
    .code(status)
    .headers({ ...headers, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
  if (body === undefined) return reply.send();
  if (contentType !== undefined) {
    if (contentType.startsWith('text/html')) reply.header('content-security-policy', DOCS_POLICY);
    return reply.type(contentType).send(body);
  }
  return reply.type('application/json; charset=utf-8').send(JSON.stringify(body));
}

/** Fastify's own errors know their status; all else goes by its code. */
function answerOf(error: unknown): Answer {
  if (error instanceof Error && 'statusCode' in error && typeof error.statusCode === 'number') {
    const { statusCode } = error;
    if (statusCode >= 400 && statusCode < 500) return plainError(statusCode, messageOf(error, statusCode));
  }
  return toAnswer(error);
}

const OWN_MESSAGES: Readonly<Record<number, string>> = {
  413: 'body: the request is too large.',
  415: 'body: must be JSON, and its Content-Type application/json.',
};

function messageOf(error: Error, status: number): string {
  return (
    OWN_MESSAGES[status] ??
    (error instanceof SyntaxError ? 'body: is not valid JSON.' : error.message.slice(0, 200))
  );
}

function plainError(status: number, message: string): Answer {
  return { status, body: { code: status, message } };
}

/** What is not even HTTP, or comes too slowly. */
function answerBrokenRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, message] =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? [408, 'The request took too long to arrive.']
      : error.code === 'HPE_HEADER_OVERFLOW'
        ? [431, 'The head of the request is too large.']
        : [400, 'This is not HTTP.'];
  const body = JSON.stringify({ code: status, message });
  const head = `HTTP/1.1 ${status} Error\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}`;
  socket.end(`${head}\r\nConnection: close\r\n\r\n${body}`);
  socket.destroySoon();
}

function sandboxOf({ params }: FastifyRequest): string | undefined {
  if (typeof params !== 'object' || params === null || !('sandboxID' in params)) return undefined;
  return typeof params.sandboxID === 'string' ? params.sandboxID.slice(0, 64) : undefined;
}
