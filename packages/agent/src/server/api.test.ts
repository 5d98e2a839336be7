/** The API over a real unix socket, in front of a manager in an in-memory world. */
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { createConnectTransport, Http2SessionManager } from '@connectrpc/connect-node';
import type { WrennError } from '@wrenn/protocol';
import {
  type ExecRequest,
  ExecRequestSchema,
  type ExecResponse,
  SandboxState,
  type WriteFileRequest,
  WriteFileRequestSchema,
} from '@wrenn/protocol/agent';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../config/load.ts';
import { createSandboxManager } from '../sandbox/manager.ts';
import { createFakeWorld, endEvent, type FakeWorld, startEvent } from '../sandbox/testing/fake-world.ts';
import { type AgentClient, createAgentClient } from './client.ts';
import { fromConnectError } from './errors.ts';
import { type Listening, listen } from './listen.ts';
import { createMetrics } from './metrics.ts';
import { registerServices } from './services.ts';

let dir: string;
let socketPath: string;
let world: FakeWorld;
let listening: Listening;
let client: AgentClient;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wrenn-api-'));
  socketPath = join(dir, 'agent.sock');
  world = createFakeWorld();
  const metrics = createMetrics();
  const manager = createSandboxManager({ ...world.deps, observer: metrics.observer });
  await manager.start(new AbortController().signal);
  const info = {
    version: '0',
    startedAtMs: Date.now(),
    driver: 'qemu',
    accelerator: 'tcg',
    driverVersion: '7',
    driverReason: 'no KVM',
  };
  listening = await listen({
    socketPath,
    limits: { ...parseConfig({}).server, maxConcurrentRequests: 20 },
    routes: (router) => registerServices(router, { manager, metrics, info, firstMessageMs: 3000 }),
    onRequestEnded: metrics.requestEnded,
    log: world.deps.log,
  });
  client = createAgentClient({ socketPath });
});

afterEach(async () => {
  client.close();
  await listening.close(0);
  await rm(dir, { recursive: true });
});

async function failure(work: Promise<unknown>): Promise<WrennError> {
  try {
    await work;
  } catch (error) {
    return fromConnectError(error);
  }
  throw new Error('it did not fail');
}

async function createOne(): Promise<string> {
  const { sandbox } = await client.sandboxes.createSandbox({ memoryMib: 256 });
  return sandbox?.id ?? '';
}

function startOf(sandboxId: string, stdin: boolean): ExecRequest {
  const value = { sandboxId, command: ['echo', 'hello'], stdin };
  return create(ExecRequestSchema, { message: { case: 'start', value } });
}

async function all(answers: AsyncIterable<ExecResponse>): Promise<ExecResponse['message'][]> {
  const messages: ExecResponse['message'][] = [];
  for await (const { message } of answers) messages.push(message);
  return messages;
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not come about');
    await sleep(2);
  }
}

async function* only<T>(...items: T[]): AsyncGenerator<T> {
  yield* items;
}

describe('the API', () => {
  it('leads a sandbox through its life', async () => {
    expect((await stat(socketPath)).mode & 0o777).toBe(0o600);
    const { sandbox, access } = await client.sandboxes.createSandbox({
      template: 'base',
      vcpus: 2,
      metadata: { a: 'b' },
      rateLimits: { networkReceiveBytesPerSecond: 1_000_000n, diskOperationsPerSecond: 0n },
      timeout: { seconds: 60n },
    });
    expect(sandbox).toMatchObject({ state: SandboxState.RUNNING, vcpus: 2, memoryMib: 512, driver: 'qemu' });
    expect(sandbox?.metadata).toEqual({ a: 'b' });
    expect(sandbox?.rateLimits).toMatchObject({ networkReceiveBytesPerSecond: 1_000_000n });
    expect(sandbox?.rateLimits?.diskOperationsPerSecond).toBeUndefined();
    expect(sandbox?.phases.length).toBeGreaterThan(5);
    expect(sandbox?.endsAt).toBeDefined();
    const id = sandbox?.id ?? '';
    expect(access).toEqual(await client.sandboxes.getSandboxAccess({ id }));
    expect(access).toMatchObject({ address: sandbox?.address, envdAccessToken: expect.stringMatching(/./) });
    expect((await client.sandboxes.pauseSandbox({ id })).sandbox?.state).toBe(SandboxState.PAUSED);
    expect((await client.sandboxes.resumeSandbox({ id })).sandbox?.state).toBe(SandboxState.RUNNING);
    expect((await client.sandboxes.setSandboxTimeout({ id })).sandbox?.endsAt).toBeUndefined();
    expect((await client.sandboxes.listSandboxes({})).sandboxes).toHaveLength(1);
    expect(await client.agent.getInfo({})).toMatchObject({ driver: 'qemu', sandboxes: 1, pid: process.pid });
    await client.sandboxes.destroySandbox({ id });
    const { text } = await client.agent.getMetrics({});
    expect(text).toContain('wrenn_sandboxes_created_total 1');
    expect(text).toContain('wrenn_sandboxes_destroyed_total 1');
    expect(text).toContain('wrenn_requests_total{method="PauseSandbox",code="ok"} 1');
    expect(text).toMatch(/wrenn_create_phase_seconds_bucket\{phase="boot",le="\+Inf"\} 1/);
  });

  it('counts all that are in the list, in whatever state', async () => {
    const { sandbox } = await client.sandboxes.createSandbox({});
    const id = sandbox?.id ?? '';
    await client.sandboxes.hibernateSandbox({ id });
    const { text } = await client.agent.getMetrics({});
    expect(text).toContain('wrenn_sandboxes{state="hibernated"} 1\n');
    expect(text).toContain('wrenn_sandboxes{state="hibernating"} 0\n');
    expect(text).toContain('wrenn_sandboxes{state="resuming"} 0\n');
    await client.sandboxes.destroySandbox({ id });
  });

  it('gives errors a code, a hint and a field, and keeps their causes', async () => {
    const unknown = await failure(client.sandboxes.getSandbox({ id: 'a'.repeat(20) }));
    expect(unknown).toMatchObject({ code: 'sandbox_not_found', field: 'id' });
    expect(await failure(client.sandboxes.getSandbox({ id: '../x' }))).toMatchObject({
      code: 'invalid_sandbox_id',
    });
    expect(await failure(client.sandboxes.createSandbox({ template: 'no' }))).toMatchObject({
      code: 'template_not_found',
      field: 'template',
    });
    expect(await failure(client.sandboxes.createSandbox({ memoryMib: 1_000_000 }))).toMatchObject({
      code: 'memory_exceeds_host',
    });
    const rateLimits = { diskBytesPerSecond: 2n ** 64n - 1n };
    expect(await failure(client.sandboxes.createSandbox({ rateLimits }))).toMatchObject({
      code: 'invalid_argument',
      field: 'rate_limits.disk_bytes_per_second',
    });
    expect(await failure(client.sandboxes.createSandbox({ timeout: { seconds: -1n } }))).toMatchObject({
      code: 'invalid_argument',
      field: 'timeout',
    });
    world.disturb = async (operation) => {
      if (operation === 'setUp') throw new Error('secret detail /root/x');
    };
    const internal = await failure(client.sandboxes.createSandbox({}));
    expect(internal.code).toBe('internal');
    expect(internal.message).not.toContain('secret');
  });

  it('runs commands', async () => {
    const id = await createOne();
    const messages = await all(client.guest.exec(only(startOf(id, false))));
    expect(messages.map((message) => message.case)).toEqual(['started', 'stdout', 'exited']);
    const notFirst = create(ExecRequestSchema, { message: { case: 'stdin', value: new Uint8Array(1) } });
    expect(await failure(all(client.guest.exec(only(notFirst))))).toMatchObject({ code: 'invalid_argument' });
    expect(await failure(all(client.guest.exec(only())))).toMatchObject({ code: 'invalid_argument' });
    const twice = all(client.guest.exec(only(startOf(id, true), startOf(id, true))));
    world.onExec = async function* () {
      yield startEvent(1);
      await new Promise(() => {});
    };
    expect(await failure(twice)).toMatchObject({ code: 'invalid_argument' });
  });

  it('kills the command of a client that has gone', async () => {
    const id = await createOne();
    world.onExec = async function* () {
      yield startEvent(9);
      await new Promise(() => {});
    };
    const abort = new AbortController();
    const answers = client.guest.exec(only(startOf(id, false)), { signal: abort.signal });
    await answers[Symbol.asyncIterator]().next();
    client.close();
    await until(() => world.signalled.length > 0);
    expect(world.signalled).toEqual([{ pid: 9, signal: 9 }]);
    await until(() => listening.activity().requests === 0);
  });

  it('ends a command that has ended, though its input has not', async () => {
    const id = await createOne();
    let sent = 0;
    world.disturb = (operation) => (operation === 'sendInput' ? new Promise(() => {}) : Promise.resolve());
    world.onExec = async function* () {
      yield startEvent(10);
      await sleep(100);
      yield endEvent(3);
    };
    async function* endless(): AsyncGenerator<ExecRequest> {
      yield startOf(id, true);
      for (;;) {
        sent++;
        yield create(ExecRequestSchema, { message: { case: 'stdin', value: new Uint8Array(64 * 1024) } });
      }
    }
    const messages = await all(client.guest.exec(endless()));
    expect(messages.at(-1)).toMatchObject({ case: 'exited', value: { exitCode: 3 } });
    expect(sent).toBeLessThan(200);
    await until(() => listening.activity().requests === 0);
  });

  it('carries files', async () => {
    const id = await createOne();
    async function* upload(): AsyncGenerator<WriteFileRequest> {
      const open = { sandboxId: id, path: '/tmp/x' };
      yield create(WriteFileRequestSchema, { message: { case: 'open', value: open } });
      yield create(WriteFileRequestSchema, { message: { case: 'data', value: Buffer.from('ab') } });
      yield create(WriteFileRequestSchema, { message: { case: 'data', value: Buffer.from('c') } });
    }
    const { entry } = await client.guest.writeFile(upload());
    expect(entry).toMatchObject({ path: '/tmp/x', size: 3n });
    expect(Buffer.concat(world.inputs.map(({ bytes }) => bytes)).toString()).toBe('abc');
    const chunks: Uint8Array[] = [];
    for await (const { data } of client.guest.readFile({ sandboxId: id, path: '/tmp/x' })) chunks.push(data);
    expect(Buffer.concat(chunks).toString()).toBe('/tmp/x');
    const nul = client.guest.statFile({ sandboxId: id, path: 'a\0b' });
    expect(await failure(nul)).toMatchObject({ code: 'invalid_path', field: 'path' });
  });

  it('survives junk', async () => {
    const junk = [
      Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
      Buffer.alloc(100_000, 0xff),
      Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.alloc(50_000, 0x41)]),
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x08\0\0\0\0\0\0\0\0\0', 'latin1'),
    ];
    for (const bytes of junk) {
      await new Promise<void>((resolve) => {
        const socket = connect({ path: socketPath }, () => socket.write(bytes));
        socket.resume();
        socket.on('error', () => {});
        socket.on('close', () => resolve());
        setTimeout(() => socket.destroy(), 100);
      });
    }
    const tooLarge = client.sandboxes.createSandbox({ template: 'x'.repeat(5 * 1024 * 1024) });
    expect(await failure(tooLarge)).toMatchObject({ code: 'invalid_argument' });
    expect((await client.agent.getInfo({})).pid).toBe(process.pid);
  });

  it('refuses messages that are no protos', async () => {
    const authority = 'http://agent.wrenn.internal';
    const sessions = new Http2SessionManager(
      authority,
      {},
      { createConnection: () => connect({ path: socketPath }) },
    );
    createConnectTransport({ httpVersion: '2', baseUrl: authority, sessionManager: sessions });
    const status = async (path: string, type: string, body: Buffer): Promise<unknown> => {
      const stream = await sessions.request('POST', path, { 'content-type': type }, {});
      stream.end(body);
      return new Promise((resolve, reject) => {
        stream.on('response', (headers) => resolve(headers[':status']));
        stream.on('error', reject);
        stream.resume();
      });
    };
    const path = '/wrenn.agent.v1.SandboxService/CreateSandbox';
    expect(await status(path, 'application/proto', Buffer.alloc(64, 0xff))).toBe(400);
    expect(await status(path, 'application/json', Buffer.from('{"template":'))).toBe(400);
    expect(await status(path, 'text/html', Buffer.from('x'))).toBe(415);
    expect(await status('/nothing/here', 'application/proto', Buffer.alloc(0))).toBe(404);
    expect(await status('/wrenn.agent.v1.AgentService/GetInfo', 'application/json', Buffer.from('{}'))).toBe(
      200,
    );
    sessions.abort();
  });

  it('waits so long for what a stream is for, and no longer', async () => {
    const silent = async function* <T>(): AsyncGenerator<T> {
      yield* [];
      await new Promise(() => {});
    };
    const exec = client.guest.exec(silent<ExecRequest>())[Symbol.asyncIterator]();
    const [run, write] = await Promise.all([
      failure(exec.next()),
      failure(client.guest.writeFile(silent<WriteFileRequest>())),
    ]);
    expect([run.code, write.code]).toEqual(['deadline_exceeded', 'deadline_exceeded']);
    await until(() => listening.activity().requests === 0);
  });

  it('has a limit on what it does at once', async () => {
    const id = await createOne();
    world.onExec = async function* () {
      yield startEvent(11);
      await new Promise(() => {});
    };
    const aborts: AbortController[] = [];
    const clients = [0, 1, 2].map(() => createAgentClient({ socketPath }));
    const codes = await Promise.all(
      clients.flatMap((one) =>
        Array.from({ length: 9 }, async () => {
          const abort = new AbortController();
          aborts.push(abort);
          const answers = one.guest.exec(only(startOf(id, false)), { signal: abort.signal });
          try {
            await answers[Symbol.asyncIterator]().next();
            return 'ok';
          } catch (error) {
            return fromConnectError(error).code;
          }
        }),
      ),
    );
    expect(new Set(codes)).toEqual(new Set(['ok', 'too_many_requests']));
    for (const abort of aborts) abort.abort();
    for (const one of clients) one.close();
    await until(() => listening.activity().requests === 0);
  });

  it('has nothing that all who come at once listen to, without being made for it', async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error): void => {
      if (warning.name === 'MaxListenersExceededWarning') warnings.push(warning);
    };
    process.on('warning', onWarning);
    try {
      // More than ten is what Node takes for a leak.
      const ids = await Promise.all(Array.from({ length: 16 }, createOne));
      const id = ids[0] ?? '';
      const once = async (): Promise<void> => {
        for await (const _answer of client.guest.exec(only(startOf(id, false))));
      };
      await Promise.all(Array.from({ length: 16 }, once));
      await Promise.all(ids.map((each) => client.sandboxes.hibernateSandbox({ id: each })));
      await Promise.all(ids.map((each) => client.sandboxes.resumeSandbox({ id: each })));
      await Promise.all(ids.map((each) => client.sandboxes.destroySandbox({ id: each })));
      // They are told of in a turn of their own.
      await sleep(1);
    } finally {
      process.off('warning', onWarning);
    }
    expect(warnings.map(({ stack }) => stack)).toEqual([]);
  });
});

it('takes over a dead socket, and no living one', async () => {
  const options = {
    limits: parseConfig({}).server,
    routes: () => {},
    onRequestEnded: () => {},
    log: world.deps.log,
  };
  expect(await failure(listen({ ...options, socketPath }))).toMatchObject({
    code: 'agent_already_running',
  });
  const stale = join(dir, 'stale.sock');
  await writeFile(stale, '');
  const taken = await listen({ ...options, socketPath: stale });
  await taken.close(0);
});
