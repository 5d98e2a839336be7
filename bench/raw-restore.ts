/**
 * The floor of a create from a snapshot: QEMU with the command line of a restore, started by hand in a network slot that
 * is there already, with a layer that is copied already. The memory is the snapshot's own file, mapped privately. No
 * confinement, no cgroup, no sealed memory, no journal, no console reader, no new identity for the guest.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, rm } from 'node:fs/promises';
import { Agent } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { copySparse } from '@wrenn/host';
import { ENVD_PORT } from '@wrenn/protocol';
import { createEnvdClient, type EnvdClient } from '../packages/agent/src/envd-client/client.ts';
import { readText, sendHttp } from '../packages/agent/src/envd-client/http.ts';
import { createNetwork } from '../packages/agent/src/network/network.ts';
import type { NetworkSlot } from '../packages/agent/src/network/slot.ts';
import { createSnapshots, type Snapshot } from '../packages/agent/src/storage/snapshots.ts';
import { filesIn, restoreArguments } from '../packages/agent/src/vmm/qemu/arguments.ts';
import { connectTo } from '../packages/agent/src/vmm/qemu/connect.ts';
import { hostTscKhz } from '../packages/agent/src/vmm/qemu/host-tsc.ts';
import { openQmp } from '../packages/agent/src/vmm/qemu/qmp.ts';
import type { Releases } from './releases.ts';
import { execByEnvd } from './run-in-guest.ts';

const RANGE = '10.233.80.0/24';
const PREFIX = 'wrbf';
const TIMEOUT_MS = 60_000;
/** May open the TAP, as root may too. */
const VMM_UID = 1_970_900_000;
/** What a fresh process is asked as often as it can answer, about. */
const POLL_MS = 1;

export interface RawRestored {
  readonly slot: NetworkSlot;
  readonly pid: number;
  /** With the snapshot's own access token, which it keeps. */
  readonly envd: EnvdClient;
  /** From the start of the program, one after the other: it loaded the state, the guest ran, `GET /health` answered. */
  readonly loadedMs: number;
  readonly healthyMs: number;
  end(): Promise<void>;
}

export interface RawRestores {
  /** Everything that is made before the clock starts, for as many as restore at once. */
  prepare(count: number): Promise<void>;
  /** In the slot of that number; what it leaves behind is taken away by `end`. */
  restore(index: number): Promise<RawRestored>;
}

export async function createRawRestores(
  dir: string,
  snapshot: Snapshot,
  releases: Releases,
  signal: AbortSignal,
): Promise<RawRestores> {
  const network = createNetwork({ owner: dir, range: RANGE, prefix: PREFIX, holdOffMs: 0 });
  releases.add('the network of the raw restores', () => network.stop());
  await network.start(new Set(), signal);
  const slots: NetworkSlot[] = [];
  const tscKhz = snapshot.vmm.accelerator === 'tcg' ? await hostTscKhz() : undefined;
  const directoryOf = (index: number): string => join(dir, `raw-${index}`);

  return {
    prepare: async (count) => {
      while (slots.length < count) {
        const index = network.reserve();
        releases.add(`the network slot ${index}`, () => network.release(index));
        slots.push(await network.setUp(index, { uid: VMM_UID, gid: VMM_UID }, signal));
      }
      for (let index = 0; index < count; index += 1) {
        const own = directoryOf(index);
        await rm(own, { recursive: true, force: true });
        await mkdir(own, { mode: 0o700 });
        await copySparse(snapshot.layerPath, join(own, 'layer.ext4'), { signal });
      }
    },
    restore: async (index) => {
      const slot = slots[index];
      if (slot === undefined) throw new Error(`the raw restore ${index} was not prepared`);
      const runDir = directoryOf(index);
      const { rootfsPath, guestImagePath, kernelPath, initrdPath } = snapshot.template;
      const spec = {
        id: 'raw',
        runDir,
        kernelPath,
        initrdPath,
        commandLine: [],
        drives: [
          { id: 'base', path: rootfsPath, readOnly: true },
          { id: 'guest', path: guestImagePath, readOnly: true },
          { id: 'layer', path: join(runDir, 'layer.ext4'), readOnly: false },
        ],
        network: { netns: slot.netns, tap: slot.tap, guestMac: slot.guestMac },
        vcpus: snapshot.vcpus,
        memoryMib: snapshot.memoryMib,
        uid: 0,
        gid: 0,
      };
      const machine = { accelerator: snapshot.vmm.accelerator, tscKhz };
      // Descriptor 3 of the process that is started.
      const args = restoreArguments(spec, machine, { memoryPath: snapshot.memoryPath, stateFd: 3 });
      const state = await open(snapshot.statePath, 'r');
      const beganAt = performance.now();
      const child = spawn(
        'nsenter',
        [
          `--net=/run/netns/${slot.netns}`,
          '--',
          'qemu-system-x86_64',
          ...args.filter((word) => word !== '-S'),
        ],
        { stdio: ['ignore', 'ignore', 'inherit', state.fd], shell: false },
      );
      let isGone = false;
      const exited = once(child, 'exit').finally(() => {
        isGone = true;
      });
      exited.catch(() => {});
      const envd = createEnvdClient({
        host: slot.address,
        accessToken: snapshot.accessToken,
        requestTimeoutMs: TIMEOUT_MS,
        stallMs: TIMEOUT_MS,
      });
      const end = releases.add('a raw restore', async () => {
        envd.close();
        child.kill('SIGKILL');
        await exited;
        await rm(filesIn(runDir).qmpSocket, { force: true });
      });
      await state.close();
      await untilRunning(runDir, () => isGone, signal);
      const loadedMs = performance.now() - beganAt;
      await askHealth(slot.address, signal);
      return { slot, pid: child.pid ?? 0, envd, loadedMs, healthyMs: performance.now() - beganAt, end };
    },
  };
}

export async function firstExecMs(restored: RawRestored, signal: AbortSignal): Promise<number> {
  const beganAt = performance.now();
  await execByEnvd(restored.envd, ['/bin/true'], signal);
  return performance.now() - beganAt;
}

/** Until the state is loaded: it then goes on by itself. */
async function untilRunning(runDir: string, isGone: () => boolean, signal: AbortSignal): Promise<void> {
  const limits = { signal, timeoutMs: TIMEOUT_MS };
  const socket = await connectTo(filesIn(runDir).qmpSocket, { ...limits, isGone });
  if (socket === undefined) throw new Error('the raw QEMU ended');
  const qmp = await openQmp(socket, { ...limits, onEvent: () => {} });
  try {
    for (;;) {
      const answer = await qmp.execute('query-status', {}, limits);
      if (typeof answer === 'object' && answer !== null && 'running' in answer && answer.running === true)
        return;
      await sleep(POLL_MS);
    }
  } finally {
    qmp.close();
  }
}

/** Once: a guest that is restored answers at the first question. */
export async function askHealth(host: string, signal: AbortSignal): Promise<void> {
  const answer = await sendHttp({
    host,
    port: ENVD_PORT,
    agent: new Agent(),
    method: 'GET',
    path: '/health',
    headers: {},
    stallMs: TIMEOUT_MS,
    signal,
  });
  await readText(answer, 1024, TIMEOUT_MS, signal);
  if (answer.status !== 204) throw new Error(`the raw guest answered with status ${answer.status}`);
}

/** A snapshot as the agent has written it down, while the agent writes none. */
export async function readSnapshot(agentDir: string, id: string): Promise<Snapshot> {
  const snapshots = createSnapshots(join(agentDir, 'snapshots'));
  await snapshots.load((_, error) => {
    throw error;
  });
  return snapshots.get(id);
}
