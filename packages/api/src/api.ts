/** The API put together: opened by `listen`, and closed within a bound whatever is under way. */
import type { WrennError } from '@wrenn/protocol';
import { createAgent } from './agent-client/index.ts';
import type { ApiConfig } from './config/schema.ts';
import type { EdgeDirectory } from './directory.ts';
import { createEdge } from './edge/edge.ts';
import { createFront } from './front.ts';
import type { Logger } from './log.ts';
import { createRest } from './rest/index.ts';
import type { OpenApiDocument } from './rest/openapi.ts';
import { createActivityReader } from './sandboxes/activity.ts';
import { createCreations } from './sandboxes/creations.ts';
import { createEdgeDirectory } from './sandboxes/edge-directory.ts';
import { createLimits } from './sandboxes/limits.ts';
import { createListing } from './sandboxes/listing.ts';
import { createMetricsHistory } from './sandboxes/metrics.ts';
import { createPlaces } from './sandboxes/places.ts';
import { createSandboxService } from './sandboxes/service.ts';
import { createTemplates } from './sandboxes/templates.ts';
import { createUpkeep } from './sandboxes/upkeep.ts';
import { createWaker } from './sandboxes/waker.ts';
import { createWatcher } from './sandboxes/watcher.ts';
import type { Store } from './store/index.ts';
import type { Certificates } from './tls/certificates.ts';

export interface Api {
  /** Throws where no agent answers, another API has the database, or the address is taken. */
  listen(): Promise<{ readonly host: string; readonly port: number }>;
  /** Resolves where it has ended by itself: another API has its database now. */
  readonly failed: Promise<WrennError>;
  /** Requests under way have a while to end; sandboxes stay. Closes the store, too. Idempotent. */
  close(): Promise<void>;
  readonly directory: EdgeDirectory;
  readonly document: OpenApiDocument;
}

export interface ApiDeps {
  /** The API's from now on. */
  readonly store: Store;
  readonly log: Logger;
  readonly version: string;
  /** For TLS; the API's from now on. */
  readonly certificates?: Certificates | undefined;
  /** Where guest agents listen; another one in tests. */
  readonly envdPort?: number;
}

/** Ends in no name that a client could ask for: sandboxes are found by headers alone then. */
const NO_DOMAIN = 'invalid';
const DRAIN_MS = 6000;
const SETTLE_MS = 2000;

export function createApi(config: ApiConfig, { store, log, version, certificates, envdPort }: ApiDeps): Api {
  const agent = createAgent(config.agent);
  const watcher = createWatcher({ agent, log, intervalMs: config.sandboxes.watchIntervalMs });
  const listing = createListing(agent, store.sandboxes);
  const limits = createLimits();
  const places = createPlaces({ agent, store, listing, limits, defaults: config.keyLimits });
  const waker = createWaker({
    agent,
    store: store.sandboxes,
    watcher,
    places,
    asleepTimeoutMs: config.agent.longCallTimeoutMs,
  });
  const creations = createCreations(agent, store.sandboxes, log);
  const metrics = createMetricsHistory({
    agent,
    watcher,
    intervalMs: config.sandboxes.metricsIntervalMs,
    envdPort,
  });
  const upkeep = createUpkeep({ agent, store: store.sandboxes, watcher, waker, creations, log });
  const templates = createTemplates(agent, store);
  const service = createSandboxService({
    agent,
    store,
    config: config.sandboxes,
    listing,
    places,
    creations,
    watcher,
    waker,
    templates,
    metrics,
    activity: createActivityReader(agent, envdPort),
    log,
  });
  const directory = createEdgeDirectory({
    agent,
    store,
    watcher,
    waker,
    config: config.sandboxes,
    envdPort,
  });
  const edge = createEdge({ domain: config.domain ?? NO_DOMAIN, log }, directory);
  const front = createFront({ edge, config: config.requests, certificates });
  const rest = createRest({
    config,
    store,
    service,
    templates,
    watcher,
    log,
    version,
    edge: edge.counts,
    refusedConnections: front.refused,
    front: front.serve,
  });
  let closing: Promise<void> | undefined;
  let fail: (error: WrennError) => void = () => {};
  const failed = new Promise<WrennError>((resolve) => {
    fail = resolve;
  });

  const shutDown = async (): Promise<void> => {
    const { server } = rest;
    certificates?.close();
    edge.close();
    const drained = server.close();
    front.drain();
    const cut = setTimeout(front.cut, DRAIN_MS);
    try {
      await drained;
    } finally {
      clearTimeout(cut);
    }
    await Promise.all([watcher.stop(), metrics.stop()]);
    // What still waits for the agent is let go; a creation that ends unheard of is swept by the next API.
    await within(SETTLE_MS, Promise.all([upkeep.settle(), rest.settle()]));
    agent.close();
    await within(SETTLE_MS, store.close());
  };

  const close = async (): Promise<void> => {
    closing ??= shutDown();
    await closing;
  };

  return {
    listen: async () => {
      await agent.ping();
      await store.claim((error) => {
        log.error({ err: error }, 'the database is another API’s now: this one ends');
        fail(error);
        close().catch((err: unknown) => log.error({ err }, 'the API did not end in good order'));
      });
      await upkeep.recover();
      await rest.server.listen({ host: config.listen.host, port: config.listen.port });
      watcher.start();
      metrics.start();
      const address = rest.server.server.address();
      const port = typeof address === 'object' && address !== null ? address.port : config.listen.port;
      return { host: config.listen.host, port };
    },
    failed,
    close,
    directory,
    document: rest.document,
  };
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work.catch(() => {}), late]);
  clearTimeout(timer);
}
