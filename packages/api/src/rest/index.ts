/** All routes, and the document and page that describe them. */
import type { RequestListener, Server } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { ApiConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { SandboxService } from '../sandboxes/service.ts';
import type { Templates } from '../sandboxes/templates.ts';
import type { Watcher } from '../sandboxes/watcher.ts';
import type { Store } from '../store/index.ts';
import { createDoorkeeper } from './auth.ts';
import { docsPage } from './docs-page.ts';
import { keyRoutes } from './key-routes.ts';
import { type OpenApiDocument, openApiDocument } from './openapi.ts';
import { createApiMetrics, type MetricsSources } from './prometheus.ts';
import { type Route, route } from './route.ts';
import { sandboxHistoryRoutes } from './sandbox-history-routes.ts';
import { sandboxListRoutes } from './sandbox-list-routes.ts';
import { sandboxRoutes } from './sandbox-routes.ts';
import { createRestServer } from './server.ts';
import { templateRoutes } from './template-routes.ts';

export interface RestDeps {
  readonly config: ApiConfig;
  readonly store: Store;
  readonly service: SandboxService;
  readonly templates: Templates;
  readonly watcher: Watcher;
  readonly log: Logger;
  readonly version: string;
  /** What the edge counts. */
  readonly edge: MetricsSources['edge'];
  readonly refusedConnections: MetricsSources['refusedConnections'];
  /** Hands over what is for the API. */
  readonly front: (api: RequestListener) => Server;
}

export interface Rest {
  readonly server: FastifyInstance;
  readonly document: OpenApiDocument;
  /** Waits for what requests have left in the background. */
  settle(): Promise<void>;
}

export function createRest({
  config,
  store,
  service,
  templates,
  watcher,
  log,
  version,
  edge,
  refusedConnections,
  front,
}: RestDeps): Rest {
  const doorkeeper = createDoorkeeper({
    keys: store.keys,
    defaults: config.keyLimits,
    requests: config.requests,
    log,
  });
  const metrics = createApiMetrics({
    version,
    sandboxes: () => watcher.view.values(),
    inFlight: () => doorkeeper.inFlight,
    edge,
    refusedConnections,
    agentAnswers: () => watcher.agentAnswers,
  });
  const described: readonly Route[] = [
    ...sandboxListRoutes(service, templates),
    ...sandboxRoutes({ service, domain: config.domain }),
    ...sandboxHistoryRoutes(service),
    ...templateRoutes(templates),
    ...keyRoutes(store.keys),
    route(
      {
        method: 'GET',
        path: '/health',
        summary: 'Whether it answers',
        tag: 'operation',
        access: 'open',
        responses: { 204: 'empty' },
      },
      async () => {
        await store.ping();
        return { status: 204 };
      },
    ),
    route(
      {
        method: 'GET',
        path: '/metrics',
        summary: 'For Prometheus',
        tag: 'operation',
        access: 'admin',
        responses: { 200: 'text/plain' },
      },
      async () => ({
        status: 200,
        body: await metrics.text(),
        contentType: 'text/plain; version=0.0.4; charset=utf-8',
      }),
    ),
  ];
  const document = openApiDocument(described, version);
  // One copy for all that read it, however slowly: nobody needs a key for it.
  const [text, page] = [JSON.stringify(document), docsPage(document)].map((each) => Buffer.from(each));
  const describing: readonly Route[] = [
    route(
      {
        method: 'GET',
        path: '/openapi.json',
        summary: 'This document',
        tag: 'operation',
        access: 'open',
        responses: { 200: z.unknown() },
      },
      async () => ({ status: 200, body: text, contentType: 'application/json; charset=utf-8' }),
    ),
    route(
      {
        method: 'GET',
        path: '/docs',
        summary: 'This document as a page',
        tag: 'operation',
        access: 'open',
        responses: { 200: 'text/html' },
      },
      async () => ({ status: 200, body: page, contentType: 'text/html; charset=utf-8' }),
    ),
  ];
  const server = createRestServer({
    routes: [...described, ...describing],
    config: config.requests,
    doorkeeper,
    metrics,
    log,
    front,
  });
  return { server, document, settle: doorkeeper.settle };
}
