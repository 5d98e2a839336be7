/** What the floors of a cold boot share: the same kernel and drives, a process by hand, until envd answers. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeExt4 } from '@wrenn/host';
import { findTemplate } from '@wrenn/images';
import { waitUntilHealthy } from '../packages/agent/src/envd-client/health.ts';
import type { MicrovmSpec } from '../packages/agent/src/vmm/driver.ts';
import { type BenchAgent, SIZE } from './bench-agent.ts';
import type { Releases } from './releases.ts';
import { timeMs } from './samples.ts';

/** Long enough for a guest of a guest, in the laboratory. */
const BOOT_TIMEOUT_MS = 300_000;

/** A VMM ended while its guest was waited for, which is also how the death of a guest is seen from here. */
export class VmmEnded extends Error {}

export interface RawBoot {
  readonly program: string;
  readonly args: readonly string[];
  /** Where envd is to be reached. */
  readonly host: string;
  readonly port: number;
}

/** Calls `work` with an empty directory for a raw boot, which is gone afterwards. */
export async function inRawDirectory<T>(
  agent: BenchAgent,
  releases: Releases,
  work: (dir: string) => Promise<T>,
): Promise<T> {
  const dir = join(agent.dir, 'raw');
  const removeDir = releases.add(dir, () => rm(dir, { recursive: true, force: true }));
  await mkdir(dir, { mode: 0o700 });
  try {
    return await work(dir);
  } finally {
    await removeDir();
  }
}

/** The microVM that the agent makes, but for its network, with a fresh layer in `dir`. */
export async function rawSpec({ imagesDir }: BenchAgent, dir: string): Promise<Omit<MicrovmSpec, 'network'>> {
  const { kernelPath, initrdPath, rootfsPath, guestImagePath } = await findTemplate(imagesDir, SIZE.template);
  const layer = join(dir, 'layer.img');
  await makeExt4(layer, SIZE.diskMib);
  return {
    id: 'raw',
    runDir: dir,
    kernelPath,
    initrdPath,
    drives: [
      { id: 'base', path: rootfsPath, readOnly: true },
      { id: 'guest', path: guestImagePath, readOnly: true },
      { id: 'layer', path: layer, readOnly: false },
    ],
    vcpus: SIZE.vcpus,
    memoryMib: SIZE.memoryMib,
    uid: 0,
    gid: 0,
    commandLine: [],
  };
}

/** From the start of the program until envd answers. */
export async function timeRawBoot(
  { program, args, host, port }: RawBoot,
  releases: Releases,
  signal: AbortSignal,
): Promise<number> {
  let stop = async (): Promise<void> => {};
  const ended = new AbortController();
  try {
    return await timeMs(async () => {
      const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'], shell: false });
      const exited = once(child, 'exit').finally(() => ended.abort());
      exited.catch(() => {});
      stop = releases.add(`the raw ${program}`, async () => {
        child.kill('SIGKILL');
        await exited;
      });
      await waitUntilHealthy({
        host,
        port,
        timeoutMs: BOOT_TIMEOUT_MS,
        signal: AbortSignal.any([signal, ended.signal]),
      });
    });
  } catch (error) {
    // The wait tells that it was called off, and not why.
    if (!ended.signal.aborted || signal.aborted) throw error;
    throw new VmmEnded(`the raw ${program} ended`, { cause: error });
  } finally {
    await stop();
  }
}
