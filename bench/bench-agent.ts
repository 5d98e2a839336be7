/** An agent of the run's own, with a directory, addresses and users that no other one has. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type AgentClient, createAgentClient, parseConfig, startAgent } from '@wrenn/agent';
import { wrennDirFromEnv } from '@wrenn/images';
import type { Sandbox } from '@wrenn/protocol/agent';
import { createEnvdClient, type EnvdClient } from '../packages/agent/src/envd-client/client.ts';
import { journalSchema } from '../packages/agent/src/sandbox/journal.ts';
import type { Releases } from './releases.ts';

export const SIZE = { template: 'minimal', vcpus: 1, memoryMib: 512, diskMib: 512 } as const;
/** Long enough for a guest of a guest, in the laboratory. */
const BOOT_TIMEOUT_MS = 300_000;
const CREATE_TIMEOUT_MS = 900_000;
const CALL_TIMEOUT_MS = 60_000;

export type BenchDriver = 'qemu' | 'firecracker';

export interface BenchAgent {
  readonly client: AgentClient;
  readonly dir: string;
  readonly imagesDir: string;
  readonly driver: BenchDriver;
  readonly accelerator: 'kvm' | 'tcg';
  create(signal: AbortSignal): Promise<Sandbox>;
  destroy(id: string): Promise<void>;
  /** Past the agent, straight to the guest. */
  connectGuest(sandbox: Sandbox): Promise<EnvdClient>;
}

/** `driver` is also what the floors are made of. */
export async function startBenchAgent(
  driver: BenchDriver,
  releases: Releases,
  signal: AbortSignal,
): Promise<BenchAgent> {
  const imagesDir = wrennDirFromEnv();
  // Short: the paths of unix sockets are.
  const dir = await mkdtemp('/tmp/wrb-');
  releases.add(dir, () => rm(dir, { recursive: true, force: true }));
  const config = parseConfig({
    wrennDir: dir,
    imagesDir,
    driver,
    timeouts: { bootMs: BOOT_TIMEOUT_MS, kvmProbeMs: CALL_TIMEOUT_MS },
    uidBase: 1_970_000_000,
    network: { range: '10.233.77.0/24', prefix: 'wrb', holdOffMs: 0 },
    log: { level: 'info', file: join(dir, 'agent.log') },
  });
  const agent = await startAgent({ config, signal });
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
  const { accelerator } = await client.agent.getInfo({}, { timeoutMs: CALL_TIMEOUT_MS });
  return {
    client,
    dir,
    imagesDir,
    driver,
    accelerator: accelerator === 'kvm' ? 'kvm' : 'tcg',
    create: async (caller) => {
      const options = { signal: caller, timeoutMs: CREATE_TIMEOUT_MS };
      const { sandbox } = await client.sandboxes.createSandbox(SIZE, options);
      if (sandbox === undefined) throw new Error('the agent answered without a sandbox');
      return sandbox;
    },
    destroy,
    connectGuest: async ({ id, address }) => {
      const journal = await readFile(join(dir, 'sandboxes', id, 'sandbox.json'), 'utf8');
      const { accessToken } = journalSchema.parse(JSON.parse(journal));
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
