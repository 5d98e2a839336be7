/** Routes on Fastify: who asks, what is asked, and one form for every error, the parser's own included. */
import type { RequestListener, Server } from 'node:http';
import type { Readable } from 'node:stream';
import { WrennError } from '@wrenn/protocol';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { ZodType } from 'zod';
import type { ApiConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import { answerBrokenRequest } from '../refusals.ts';
import { createRequestId } from '../request-ids.ts';
import { whenOver } from '../when-over.ts';
import type { Doorkeeper, Visitor } from './auth.ts';
import { readBody } from './body.ts';
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

/** A key's place that a request takes. */
interface Stay {
  readonly visitor: Visitor;
  isWorking: boolean;
  isOver: boolean;
}

const PARAM_MAX_CHARS = 512;
const NOBODY = {
  keyId: '',
  teamId: '',
  admin: false,
  limits: {
    maxSandboxes: 0,
    maxPausedSandboxes: 0,
    maxSnapshots: 0,
    createsPerMinute: 1,
    maxVcpus: 1,
    maxMemoryMib: 64,
    maxRequestsInFlight: 1,
    maxBodyMibInFlight: 1,
    maxAnswerMibInFlight: 1,
  },
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
    genReqId: createRequestId,
    bodyLimit: config.bodyMaxBytes,
    forceCloseConnections: 'idle',
    exposeHeadRoutes: true,
    requestIdHeader: false,
    routerOptions: { maxParamLength: PARAM_MAX_CHARS },
    serverFactory: front,
    clientErrorHandler: answerBrokenRequest,
    frameworkErrors: (error, _request, reply) => void send(reply, answerOf(error)),
  });
  server.server.maxConnections = config.maxConnections;
  const stays = new WeakMap<FastifyRequest, Stay>();
  /** What a request has made. */
  const made = new WeakMap<FastifyRequest, string>();
  /** The key's place is free once the work is done and nobody waits for it: going away early makes no room. */
  const change = (request: FastifyRequest, what: Partial<Pick<Stay, 'isWorking' | 'isOver'>>): void => {
    const stay = stays.get(request);
    if (stay === undefined) return;
    Object.assign(stay, what);
    if (stay.isOver && !stay.isWorking) stay.visitor.leave();
  };
  const secureParse = server.getDefaultJsonParser('error', 'error');
  server.removeAllContentTypeParsers();
  server.addContentTypeParser('application/json', async (request: FastifyRequest, body: Readable) => {
    const { headers } = request;
    // Nobody's body is read who has shown no key.
    const onBytes = (bytes: number): void => stays.get(request)?.visitor.send(bytes);
    const text = await readBody(body, { headers, maxBytes: config.bodyMaxBytes, onBytes });
    // SDKs send the type with an empty body, too.
    if (text === '') return undefined;
    return await new Promise<unknown>((resolve, reject) => {
      secureParse(request, text, (error, value) => (error === null ? resolve(value) : reject(error)));
    });
  });

  // Before its body is read: nobody has shown a key for it.
  server.addHook('onRequest', async (request, reply) => {
    if (request.is404) return send(reply, plainError(404, notHere(request.url)));
  });
  server.addHook('onResponse', async (request, reply) => {
    const { method, routeOptions, id: requestId } = request;
    const route = routeOptions.url ?? 'none';
    metrics.answered(route === 'none' ? 'none' : method, route, reply.statusCode, reply.elapsedTime);
    const sandboxId = made.get(request) ?? sandboxOf(request);
    const fields = { requestId, ...(sandboxId === undefined ? {} : { sandboxId }) };
    const durationMs = Math.round(reply.elapsedTime);
    log.info({ ...fields, method, route, status: reply.statusCode, durationMs }, 'request');
  });
  // A client that does not take its answer holds neither a connection nor a key's place.
  server.addHook('onSend', async ({ raw: request }, { raw: response }) => {
    const timer = setTimeout(() => request.socket.destroy(), config.requestTimeoutMs);
    whenOver(request, response, () => clearTimeout(timer));
  });
  server.setErrorHandler((error, request, reply) => {
    const answer = answerOf(error);
    if (answer.status >= 500) {
      log.error({ err: error, requestId: request.id, sandboxId: sandboxOf(request) }, 'a request failed');
    }
    return send(reply, answer);
  });
  server.setNotFoundHandler((request, reply) => send(reply, plainError(404, notHere(request.url))));

  for (const route of routes) {
    const { spec } = route;
    server.route({
      method: spec.method,
      url: spec.path.replaceAll(/\{(\w+)\}/g, ':$1'),
      onRequest: async (request, reply) => {
        if (spec.access === 'open') return;
        const visitor = await doorkeeper.admit(request.headers, request.socket.remoteAddress ?? '');
        stays.set(request, { visitor, isWorking: false, isOver: false });
        whenOver(request.raw, reply.raw, () => {
          change(request, { isOver: true });
          if (!reply.raw.writableFinished) metrics.aborted();
        });
        if (spec.access === 'admin' && !visitor.caller.admin) {
          throw new WrennError('not_permitted', 'Only an admin key may do this.');
        }
      },
      handler: async (request, reply) => {
        const visitor = stays.get(request)?.visitor;
        const given = request.body ?? (spec.bodyOptional === true ? {} : undefined);
        change(request, { isWorking: true });
        try {
          const answer = await route.handle({
            params: parse(spec.params, request.params),
            query: parse(spec.query, request.query),
            body: parse(spec.body, given),
            caller: visitor?.caller ?? NOBODY,
            secret: visitor?.secret ?? '',
          });
          const id = idIn(answer.body);
          if (id !== undefined) made.set(request, id);
          const written = write(answer);
          // What was changed is told, however much is under way.
          visitor?.answer(sizeOf(written), { mayRefuse: spec.method === 'GET' });
          return send(reply, written);
        } finally {
          change(request, { isWorking: false });
        }
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

const JSON_TYPE = 'application/json; charset=utf-8';

/** With its body as it is sent. */
function write(answer: Answer): Answer {
  const { body, contentType } = answer;
  if (body === undefined || contentType !== undefined) return answer;
  return { ...answer, body: JSON.stringify(body), contentType: JSON_TYPE };
}

function sizeOf({ body }: Answer): number {
  return typeof body === 'string' || Buffer.isBuffer(body) ? Buffer.byteLength(body) : 0;
}

function send(reply: FastifyReply, answer: Answer): FastifyReply {
  const { status, body, headers = {}, contentType = JSON_TYPE } = write(answer);
  reply.code(status).headers({
    ...headers,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    'x-request-id': reply.request.id,
  });
  // Fastify's own word after a body that is too large; HTTP/2 has no such header.
  if (reply.request.raw.httpVersionMajor === 2) reply.removeHeader('connection');
  if (body === undefined) return reply.send();
  if (contentType.startsWith('text/html')) reply.header('content-security-policy', DOCS_POLICY);
  return reply.type(contentType).send(body);
}

/** Of E2B's API, what SDKs may ask for and Wrenn does not have: nobody should take it for a mistake of their own. */
const ABSENT: readonly (readonly [RegExp, string])[] = [
  [/^\/volume(s|content)(\/|$)/, 'volumes'],
  [/^\/secrets(\/|$)/, 'secrets'],
  [/^\/teams\/[^/]+\/metrics(\/|$)/, 'metrics of a team: /metrics has those of all'],
  [/^(\/v\d)?\/templates(\/|$)/, 'building templates through this API'],
];

function notHere(url: string): string {
  const [path = ''] = url.split('?', 1);
  const what = ABSENT.find(([pattern]) => pattern.test(path))?.[1];
  return what === undefined ? 'There is no such path or method.' : `Wrenn does not support ${what}.`;
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

function idIn(body: unknown): string | undefined {
  if (typeof body !== 'object' || body === null || !('sandboxID' in body)) return undefined;
  return typeof body.sandboxID === 'string' ? body.sandboxID : undefined;
}

function sandboxOf({ params }: FastifyRequest): string | undefined {
  if (typeof params !== 'object' || params === null || !('sandboxID' in params)) return undefined;
  return typeof params.sandboxID === 'string' ? params.sandboxID.slice(0, 64) : undefined;
}
