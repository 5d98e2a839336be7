/** Rate limits on a real microVM: that its disk and its network are no faster, and are without them. */
import { create } from '@bufbuild/protobuf';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { SandboxState, type WriteFileRequest, WriteFileRequestSchema } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  createSandbox,
  exec,
  PATIENCE,
  prepareAgent,
  remains,
  type TestAgentFiles,
} from './agent-fixture.ts';

const MIB = 1024 * 1024;
/** Bytes in a second. */
const NETWORK_RATE = MIB;
const DISK_RATE = 2 * MIB;
const DISK_OPERATIONS = 100;
const SENT_BYTES = 2 * MIB;
const PART_BYTES = 256 * 1024;
const ATTEMPTS = 3;

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;

beforeAll(async () => {
  const rateLimits = { diskBytesPerSecond: DISK_RATE, diskOperationsPerSecond: DISK_OPERATIONS };
  files = await prepareAgent(5, { defaults: { rateLimits } });
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
});

afterAll(async () => {
  client?.close();
  await agent?.stop();
  await files?.remove();
});

async function secondsOf(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return (performance.now() - startedAt) / 1000;
}

/** Again while it takes that long: what is limited does each time, and a machine that is busy does not. */
async function atBest(work: () => Promise<unknown>, boundS: number): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < ATTEMPTS && best >= boundS; attempt++) {
    best = Math.min(best, await secondsOf(work));
  }
  return best;
}

async function sh(id: string, script: string): Promise<void> {
  const { exitCode, stderr } = await exec(client, id, ['sh', '-ec', script], { user: 'root' });
  expect(exitCode, stderr).toBe(0);
}

/** In memory, so that the network alone is measured. */
async function upload(sandboxId: string): Promise<void> {
  async function* requests(): AsyncGenerator<WriteFileRequest> {
    const open = { sandboxId, path: '/dev/shm/sent', user: 'root' };
    yield create(WriteFileRequestSchema, { message: { case: 'open', value: open } });
    for (let sent = 0; sent < SENT_BYTES; sent += PART_BYTES) {
      const value = new Uint8Array(PART_BYTES);
      yield create(WriteFileRequestSchema, { message: { case: 'data', value } });
    }
  }
  await client.guest.writeFile(requests());
}

async function download(sandboxId: string): Promise<void> {
  let got = 0;
  const request = { sandboxId, path: '/dev/shm/sent', user: 'root' };
  for await (const { data } of client.guest.readFile(request)) got += data.length;
  expect(got).toBe(SENT_BYTES);
}

interface Measured {
  readonly written: number;
  readonly read: number;
  readonly operations: number;
  readonly uploaded: number;
  readonly downloaded: number;
}

/**
 * The least that each may take: a second's worth of the disk (two with Firecracker, which fills a bucket that runs
 * out once more if it was not used for long) and a tenth of the network's may go at once.
 */
const ALLOWED: Measured = { written: 3.6, read: 3.6, operations: 2.7, uploaded: 1.6, downloaded: 1.6 };

/** How long each takes, in seconds. */
async function measure(
  id: string,
  seconds: (work: () => Promise<unknown>, allowedS: number) => Promise<number>,
): Promise<Measured> {
  const dd = (words: string) => () => sh(id, `dd status=none ${words}`);
  const write = 'if=/dev/zero of=/root/x';
  return {
    written: await seconds(dd(`${write} bs=1M count=12 conv=fsync`), ALLOWED.written),
    read: await seconds(dd('if=/root/x of=/dev/null bs=1M iflag=direct'), ALLOWED.read),
    operations: await seconds(dd(`${write} bs=1k count=500 oflag=direct conv=notrunc`), ALLOWED.operations),
    uploaded: await seconds(() => upload(id), ALLOWED.uploaded),
    downloaded: await seconds(() => download(id), ALLOWED.downloaded),
  };
}

describe('a sandbox', () => {
  it('is no faster than its limits, those of its own and the defaults', async () => {
    const networkRate = BigInt(NETWORK_RATE);
    const { id, rateLimits } = await createSandbox(client, {
      rateLimits: {
        networkReceiveBytesPerSecond: networkRate,
        networkTransmitBytesPerSecond: networkRate,
      },
    });
    expect(rateLimits).toMatchObject({
      networkReceiveBytesPerSecond: networkRate,
      networkTransmitBytesPerSecond: networkRate,
      diskBytesPerSecond: BigInt(DISK_RATE),
      diskOperationsPerSecond: BigInt(DISK_OPERATIONS),
    });
    const limited = await measure(id, secondsOf);
    process.stdout.write(`with limits, seconds: ${JSON.stringify(limited)}\n`);
    expect(limited.written).toBeGreaterThan(ALLOWED.written);
    expect(limited.read).toBeGreaterThan(ALLOWED.read);
    expect(limited.operations).toBeGreaterThan(ALLOWED.operations);
    expect(limited.uploaded).toBeGreaterThan(ALLOWED.uploaded);
    expect(limited.downloaded).toBeGreaterThan(ALLOWED.downloaded);
    expect(Math.max(...Object.values(limited))).toBeLessThan(20 * PATIENCE);

    // What waits for the limit holds up neither a pause nor the end.
    const busy = sh(id, 'dd if=/dev/zero of=/root/y bs=1M count=32 oflag=direct').catch(() => {});
    await sh(id, 'until [ -s /root/y ]; do sleep 0.1; done');
    expect(await secondsOf(() => client.sandboxes.pauseSandbox({ id }))).toBeLessThan(10 * PATIENCE);
    const resumed = await client.sandboxes.resumeSandbox({ id });
    expect(resumed.sandbox?.state).toBe(SandboxState.RUNNING);
    await client.sandboxes.destroySandbox({ id });
    await busy;
    expect(await remains(files)).toEqual([]);
  });

  it('is faster without limits', async () => {
    const { id, rateLimits } = await createSandbox(client, {
      rateLimits: { diskBytesPerSecond: 0n, diskOperationsPerSecond: 0n },
    });
    expect(Object.values(rateLimits ?? {}).filter((value) => typeof value === 'bigint')).toEqual([]);
    const free = await measure(id, (work, allowedS) => atBest(work, allowedS * PATIENCE));
    process.stdout.write(`without limits, seconds: ${JSON.stringify(free)}\n`);
    expect(free.written).toBeLessThan(ALLOWED.written * PATIENCE);
    expect(free.read).toBeLessThan(ALLOWED.read * PATIENCE);
    expect(free.operations).toBeLessThan(ALLOWED.operations * PATIENCE);
    expect(free.uploaded).toBeLessThan(ALLOWED.uploaded * PATIENCE);
    expect(free.downloaded).toBeLessThan(ALLOWED.downloaded * PATIENCE);
    await client.sandboxes.destroySandbox({ id });
  });

  it('boots with the lowest limits that there are', async () => {
    const { id } = await createSandbox(client, {
      rateLimits: {
        networkReceiveBytesPerSecond: 65_536n,
        networkTransmitBytesPerSecond: 65_536n,
        diskBytesPerSecond: 65_536n,
        diskOperationsPerSecond: 10n,
      },
    });
    await sh(id, 'echo fine > /root/x; sync');
    await client.sandboxes.destroySandbox({ id });
  });
});
