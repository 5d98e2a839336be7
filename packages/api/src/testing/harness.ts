/** An API with all of it real but the agent; every answer is held against the OpenAPI document. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { pino } from 'pino';
import { type Api, createApi } from '../api.ts';
import { type ApiConfigInput, parseApiConfig } from '../config/schema.ts';
import type { OpenApiDocument } from '../rest/openapi.ts';
import { openStore, type Store } from '../store/index.ts';
import { openCertificates } from '../tls/certificates.ts';
import { type FakeAgent, startFakeAgent } from './fake-agent.ts';
import { startPostgres } from './postgres.ts';

/** `server`: the store is PostgreSQL's; embedded else. */
export const STORE_SETTING = 'WRENN_TEST_STORE';

export interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers whose form the document has vouched for
  readonly body: any;
  readonly headers: Headers;
}

export interface CallOptions {
  /** Undefined for the first key, null for none. */
  readonly key?: string | null;
  readonly body?: unknown;
  /** Sent as it is. */
  readonly raw?: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Harness {
  readonly api: Api;
  readonly store: Store;
  readonly agent: FakeAgent;
  readonly url: string;
  /** Of a development certificate, where the configuration asks for one. */
  readonly authorityFile: string | undefined;
  /** A key that manages. */
  readonly key: string;
  /** Lines of the log. */
  readonly logged: readonly string[];
  forgetLog(): void;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  newKey(limits?: Readonly<Record<string, number>>): Promise<string>;
  /** Another API on the same store and agent, as after a restart. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

export interface HarnessOptions {
  readonly config?: ApiConfigInput;
  /** Of a guest agent's GET /metrics. */
  readonly guest?: (token: string | undefined) => { readonly status: number; readonly text: string };
}

export async function startHarness({ config = {}, guest }: HarnessOptions = {}): Promise<Harness> {
  const dir = mkdtempSync(join(tmpdir(), 'wrenn-api-'));
  const socketPath = join(dir, 'agent.sock');
  const agent = await startFakeAgent(socketPath);
  const server = process.env[STORE_SETTING] === 'server' ? await startPostgres() : undefined;
  const envd = guest === undefined ? undefined : await startGuest(guest);
  const settings = parseApiConfig({
    ...config,
    listen: { port: 0 },
    agent: { socketPath },
    store: server === undefined ? { dataDir: join(dir, 'api', 'store') } : { databaseUrl: server.database() },
  });
  const logged: string[] = [];
  const log = pino({ level: 'info' }, { write: (line) => void logged.push(line) });
  const open = async () => {
    const store = await openStore(settings.store);
    const certificates = await openCertificates(settings, log);
    const api = createApi(settings, {
      store,
      log,
      version: '0.0.0-test',
      certificates,
      ...(envd === undefined ? {} : { envdPort: envd.port }),
    });
    const { port } = await api.listen();
    const url = `${certificates === undefined ? 'http' : 'https'}://127.0.0.1:${port}`;
    return { store, api, url, authorityFile: certificates?.authority?.certificateFile };
  };
  let running = await open();
  const { secret: key } = await running.store.keys.create({ name: 'first', admin: true });
  const check = createChecker(running.api.document);

  return {
    get api() {
      return running.api;
    },
    get store() {
      return running.store;
    },
    get url() {
      return running.url;
    },
    get authorityFile() {
      return running.authorityFile;
    },
    agent,
    key,
    logged,
    forgetLog: () => void logged.splice(0),
    call: async (method, path, { key: asked = key, body, raw, headers = {} } = {}) => {
      const payload = raw ?? (body === undefined ? undefined : JSON.stringify(body));
      const answer = await fetch(`${running.url}${path}`, {
        method,
        headers: {
          ...(asked === null ? {} : { 'x-api-key': asked }),
          ...(payload === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(payload === undefined ? {} : { body: payload }),
      });
      const text = await answer.text();
      const isJson = answer.headers.get('content-type')?.startsWith('application/json') === true;
      const parsed: unknown = isJson ? JSON.parse(text) : text;
      check(method, new URL(answer.url).pathname, answer.status, parsed, isJson);
      return { status: answer.status, body: parsed, headers: answer.headers };
    },
    newKey: async (limits = {}) => (await running.store.keys.create({ name: 'another', limits })).secret,
    restart: async () => {
      await running.api.close();
      running = await open();
    },
    close: async () => {
      await running.api.close();
      await agent.close();
      envd?.server.close();
      await server?.stop();
      rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
}

type Check = (method: string, path: string, status: number, body: unknown, isJson: boolean) => void;

/** Throws where an answer is not what the document promises. */
export function createChecker(document: OpenApiDocument): Check {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  addFormats.default(ajv);
  ajv.addSchema(document, 'api');
  const paths = Object.entries(document.paths).map(([path, methods]) => ({
    path,
    methods,
    // A path without parameters goes before one with.
    weight: path.includes('{') ? 1 : 0,
    pattern: new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]*')}$`),
  }));
  paths.sort((a, b) => a.weight - b.weight);
  const pointer = (part: string) => part.replaceAll('~', '~0').replaceAll('/', '~1');
  return (method, path, status, body, isJson) => {
    const lower = method.toLowerCase();
    const found = paths.find(({ pattern, methods }) => pattern.test(path) && Object.hasOwn(methods, lower));
    if (found === undefined) {
      const known = ['/openapi.json', '/docs'].includes(path);
      if (!known && status < 400) throw new Error(`${method} ${path} is not in the document.`);
      if (known) return;
    }
    const schema =
      found === undefined
        ? '#/components/schemas/Error'
        : `#/paths/${pointer(found.path)}/${lower}/responses/${status}/content/application~1json/schema`;
    if (!isJson) {
      if (status >= 400) throw new Error(`${method} ${path} answered ${status} without JSON.`);
      if (status === 204 && body !== '') throw new Error(`${method} ${path} answered 204 with a body.`);
      return;
    }
    const validate = ajv.getSchema(`api${schema}`);
    if (validate === undefined)
      throw new Error(`${method} ${path} answered ${status}, which the document has not.`);
    if (validate(body) !== true) {
      throw new Error(
        `${method} ${path} ${status}: ${ajv.errorsText(validate.errors)} in ${JSON.stringify(body)}`,
      );
    }
  };
}

async function startGuest(
  guest: NonNullable<HarnessOptions['guest']>,
): Promise<{ server: Server; port: number }> {
  const server = createServer((request, response) => {
    const token = request.headers['x-access-token'];
    const { status, text } = guest(typeof token === 'string' ? token : undefined);
    response.writeHead(status, { 'content-type': 'application/json' }).end(text);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return { server, port: typeof address === 'object' && address !== null ? address.port : 0 };
}
