/** What the API and the edge add: the SDK through them, and the same past them, in turns. */
import { Sandbox as SdkSandbox } from 'e2b';
import { type ApiProcess, startApiProcess } from './api-process.ts';
import { type BenchAgent, SIZE } from './bench-agent.ts';
import type { Releases } from './releases.ts';
import type { Measurement } from './report.ts';
import { timeMs } from './samples.ts';
import { untilPoolIsFull } from './starts.ts';

export interface ApiBench {
  /** Keeps `API_POOL_SIZE` ready: a boot of seconds would hide the milliseconds that are looked for. */
  readonly agent: BenchAgent;
  readonly releases: Releases;
  readonly rounds: number;
  readonly signal: AbortSignal;
  readonly progress: (line: string) => void;
}

export const API_POOL_SIZE = 2;
const CREATES_PER_ROUND = 2;
/** They take a fraction of a second, and vary. */
const DOWNLOADS_PER_ROUND = 4;
const COMMANDS_PER_ROUND = 10;
const TRANSFER_BYTES = 100 * 1024 * 1024;
const TIMEOUT_MS = 300_000;
const ENVD_PORT = 49_983;

export async function apiMeasurements(bench: ApiBench): Promise<Measurement[]> {
  const { agent, releases, signal } = bench;
  // For a look at what takes the time: WRENN_BENCH_CPU_PROF is a directory.
  const profiles = process.env.WRENN_BENCH_CPU_PROF;
  const options = profiles === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profiles}`];
  const api = await startApiProcess(agent.dir, agent.socketPath, options);
  releases.add('the API', api.stop);
  const connection = {
    apiKey: api.apiKey,
    apiUrl: api.url,
    sandboxUrl: api.url,
    requestTimeoutMs: TIMEOUT_MS,
  };
  signal.throwIfAborted();
  const creates = await apiCreates(bench, connection);
  const sandbox = await SdkSandbox.create(SIZE.template, { ...connection, timeoutMs: 3_600_000 });
  const address = await addressOf(agent, sandbox.sandboxId);
  const direct = await SdkSandbox.connect(sandbox.sandboxId, {
    ...connection,
    sandboxUrl: `http://${address}:${ENVD_PORT}`,
  });
  const measurements = [
    creates,
    await apiCommands(bench, sandbox, direct),
    ...(await apiTransfers(bench, sandbox, direct)),
  ];
  await sandbox.kill();
  return measurements;
}

type Connection = Pick<ApiProcess, 'apiKey'> & {
  readonly apiUrl: string;
  readonly sandboxUrl: string;
  readonly requestTimeoutMs: number;
};

async function apiCreates(
  { agent, rounds, signal, progress }: ApiBench,
  connection: Connection,
): Promise<Measurement> {
  const [byApi, byAgent]: [number[], number[]] = [[], []];
  for (let round = 0; round <= rounds; round += 1) {
    progress(`creates by the SDK: ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`);
    for (let n = 0; n < CREATES_PER_ROUND; n += 1) {
      await untilPoolIsFull(agent, signal, API_POOL_SIZE);
      let made: SdkSandbox | undefined;
      const sdkMs = await timeMs(async () => {
        made = await SdkSandbox.create(SIZE.template, connection);
      });
      await made?.kill();
      await untilPoolIsFull(agent, signal, API_POOL_SIZE);
      let id = '';
      const agentMs = await timeMs(async () => {
        id = (await agent.create(signal)).id;
      });
      await agent.destroy(id);
      if (round === 0) continue;
      byApi.push(sdkMs);
      byAgent.push(agentMs);
    }
  }
  return {
    what: 'create by the SDK',
    samplesMs: byApi,
    floor: { what: 'by the agent’s RPC, both from the pool', samplesMs: byAgent },
    target: { kind: 'extra', ms: 25 },
  };
}

async function apiCommands(
  { rounds, signal, progress }: ApiBench,
  byEdge: SdkSandbox,
  direct: SdkSandbox,
): Promise<Measurement> {
  const [throughEdge, straight]: [number[], number[]] = [[], []];
  for (let round = 0; round <= rounds; round += 1) {
    progress(`commands by the SDK: ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`);
    for (let n = 0; n < COMMANDS_PER_ROUND; n += 1) {
      signal.throwIfAborted();
      const edgeMs = await timeMs(() => byEdge.commands.run('true'));
      const directMs = await timeMs(() => direct.commands.run('true'));
      if (round === 0) continue;
      throughEdge.push(edgeMs);
      straight.push(directMs);
    }
  }
  return {
    what: 'a command by the SDK',
    samplesMs: throughEdge,
    floor: { what: 'straight to envd', samplesMs: straight },
    target: { kind: 'extra', ms: 5 },
  };
}

async function apiTransfers(
  { rounds, signal, progress }: ApiBench,
  byEdge: SdkSandbox,
  direct: SdkSandbox,
): Promise<Measurement[]> {
  const content = new Uint8Array(TRANSFER_BYTES).fill(0x77).buffer;
  const path = '/tmp/transfer';
  const options = { requestTimeoutMs: TIMEOUT_MS };
  const up = (sandbox: SdkSandbox) => timeMs(() => sandbox.files.write(path, content, options));
  const down = (sandbox: SdkSandbox) =>
    timeMs(async () => {
      const { length } = await sandbox.files.read(path, { ...options, format: 'bytes' });
      checkSize(length);
    });
  const flow = (sandbox: SdkSandbox) =>
    timeMs(async () => {
      const stream = await sandbox.files.read(path, { ...options, format: 'stream' });
      let sizeBytes = 0;
      for await (const chunk of stream as unknown as AsyncIterable<Uint8Array>) sizeBytes += chunk.length;
      checkSize(sizeBytes);
    });
  // What the guest still has to write to its disk is nobody's. By the way that comes next, as a connection that is in use is faster.
  const settle = (sandbox: SdkSandbox) =>
    sandbox.commands.run('sync', { user: 'root', timeoutMs: TIMEOUT_MS });
  const samples = {
    up: { edge: [] as number[], direct: [] as number[] },
    down: { edge: [] as number[], direct: [] as number[] },
    flow: { edge: [] as number[], direct: [] as number[] },
  };
  for (let round = 0; round <= rounds; round += 1) {
    progress(`transfers by the SDK: ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`);
    for (const [name, run, times] of [
      ['up', up, 1],
      ['down', down, DOWNLOADS_PER_ROUND],
      ['flow', flow, DOWNLOADS_PER_ROUND],
    ] as const) {
      for (let n = 0; n < times; n += 1) {
        const inTurn = (round + n) % 2 === 0 ? (['edge', 'direct'] as const) : (['direct', 'edge'] as const);
        for (const way of inTurn) {
          const sandbox = way === 'edge' ? byEdge : direct;
          if (name === 'up' || n === 0) await settle(sandbox);
          signal.throwIfAborted();
          const ms = await run(sandbox);
          if (round > 0) samples[name][way].push(ms);
        }
      }
    }
  }
  const row = (what: string, { edge, direct: straight }: (typeof samples)['up']): Measurement => ({
    what,
    samplesMs: edge,
    floor: { what: 'straight to envd', samplesMs: straight },
    sizeBytes: TRANSFER_BYTES,
    target: { kind: 'speed', ratio: 0.8 },
  });
  return [
    row('upload of 100 MiB by the SDK, from memory', samples.up),
    row('download of 100 MiB by the SDK, into memory', samples.down),
    row('  as a stream, of which nothing is kept', samples.flow),
  ];
}

function checkSize(sizeBytes: number): void {
  if (sizeBytes !== TRANSFER_BYTES) throw new Error(`the download has ${sizeBytes} bytes`);
}

async function addressOf({ client }: BenchAgent, id: string): Promise<string> {
  const { sandbox } = await client.sandboxes.getSandbox({ id }, { timeoutMs: 10_000 });
  return sandbox?.address ?? '';
}
