/** An agent of the run's own, with a directory, addresses and users that no other one has. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type AgentClient,
  type AgentConfigInput,
  createAgentClient,
  parseConfig,
  startAgent,
} from '@wrenn/agent';
import { wrennDirFromEnv } from '@wrenn/images';
import type { Sandbox } from '@wrenn/protocol/agent';
import { createEnvdClient, type EnvdClient } from '../packages/agent/src/envd-client/client.ts';
import { type JournalRecord, journalSchema } from '../packages/agent/src/sandbox/journal-record.ts';
import type { Releases } from './releases.ts';

export const SIZE = { template: 'minimal', vcpus: 1, memoryMib: 512, diskMib: 512 } as const;
/** Long enough for a guest of a guest, in the laboratory. */
const BOOT_TIMEOUT_MS = 300_000;
const CREATE_TIMEOUT_MS = 900_000;
export const CALL_TIMEOUT_MS = 60_000;

export type BenchDriver = 'qemu' | 'firecracker';

export interface BenchAgentOptions {
  readonly driver: BenchDriver;
  /** For a second agent in the same run. */
  readonly number?: number;
  /** How many sandboxes are kept ready; none if absent. */
  readonly poolSize?: number;
}

export interface BenchAgent {
  readonly client: AgentClient;
  readonly dir: string;
  readonly socketPath: string;
  readonly imagesDir: string;
  readonly driver: BenchDriver;
  readonly accelerator: 'kvm' | 'tcg';
  /** `diskMib` instead of the usual size: one that no warm template has. */
  create(signal: AbortSignal, diskMib?: number): Promise<Sandbox>;
  destroy(id: string): Promise<void>;
  /** What the agent knows of a sandbox and tells nobody. */
  journalOf(id: string): Promise<JournalRecord>;
  /** Past the agent, straight to the guest. */
  connectGuest(sandbox: Sandbox): Promise<EnvdClient>;
}

/** `driver` is also what the floors are made of. */
export async function startBenchAgent(
  { driver, number = 0, poolSize = 0 }: BenchAgentOptions,
  releases: Releases,
  signal: AbortSignal,
): Promise<BenchAgent> {
  const imagesDir = wrennDirFromEnv();
  // Short: the paths of unix sockets are.
  const dir = await mkdtemp('/tmp/wrb-');
  releases.add(dir, () => rm(dir, { recursive: true, force: true }));
  const input: AgentConfigInput = {
    wrennDir: dir,
    imagesDir,
    driver,
    timeouts: { bootMs: BOOT_TIMEOUT_MS, kvmProbeMs: CALL_TIMEOUT_MS },
    uidBase: 1_970_000_000 + number * 1000,
    network: { range: `10.233.${77 + number}.0/24`, prefix: `wrb${number}`, holdOffMs: 0 },
    // The SDK cannot ask for a size.
    defaults: { vcpus: SIZE.vcpus, memoryMib: SIZE.memoryMib, diskMib: SIZE.diskMib },
    // Warm templates are made when they are asked for, and by the pool; nothing goes on in the background.
    warm: { mode: 'off' },
    pool: { entries: poolSize === 0 ? [] : [{ ...SIZE, size: poolSize }] },
    log: { level: 'info', file: join(dir, 'agent.log') },
  };
  const agent = await startAgent({ config: parseConfig(input), signal });
  releases.add('the agent', agent.stop);
  const client = createAgentClient({ socketPath: agent.socketPath });
  releases.add('the connection to the agent', async () => client.close());

  const destroy = async (id: string): Promise<void> => {
    await client.sandboxes.destroySandbox({ id }, { timeoutMs: CALL_TIMEOUT_MS });
  };
  // Also those whose creation was under way when the run was interrupted.
  releases.add('the sandboxes', async () => {
    const { sandboxes } = await client.sandboxes.listSandboxes({}, { timeoutMs: CALL_TIMEOUT_MS });
    for (const { id } of sandboxes) await destroy(id);
  });
  const journalOf = async (id: string): Promise<JournalRecord> => {
    const journal = await readFile(join(dir, 'sandboxes', id, 'sandbox.json'), 'utf8');
    return journalSchema.parse(JSON.parse(journal));
  };
  const { accelerator } = await client.agent.getInfo({}, { timeoutMs: CALL_TIMEOUT_MS });
  return {
    client,
    dir,
    socketPath: agent.socketPath,
    imagesDir,
    driver,
    accelerator: accelerator === 'kvm' ? 'kvm' : 'tcg',
    create: async (caller, diskMib = SIZE.diskMib) => {
      const options = { signal: caller, timeoutMs: CREATE_TIMEOUT_MS };
      const { sandbox } = await client.sandboxes.createSandbox({ ...SIZE, diskMib }, options);
      if (sandbox === undefined) throw new Error('the agent answered without a sandbox');
      return sandbox;
    },
    destroy,
    journalOf,
    connectGuest: async ({ id, address }) => {
      const { accessToken } = await journalOf(id);
      const envd = createEnvdClient({
        host: address,
        accessToken,
        requestTimeoutMs: CALL_TIMEOUT_MS,
        stallMs: CALL_TIMEOUT_MS,
      });
      releases.add('the connection to the guest', async () => envd.close());
      return envd;
    },
  };
}
