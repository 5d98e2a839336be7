/** `--snapshots`: hibernation, forks, and what idle sandboxes cost. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BenchAgent, CALL_TIMEOUT_MS, SIZE } from './bench-agent.ts';
import { type IdleCost, idleCosts } from './memory.ts';
import { forgetPages, readRaw, usedBytes, writeRaw } from './raw-files.ts';
import type { Measurement } from './report.ts';
import { execByAgent } from './run-in-guest.ts';
import { timeMs } from './samples.ts';
import type { SnapshotBench } from './starts.ts';

const IDLE_SANDBOXES = 8;
const SETTLE_MS = 5_000;
const IDLE_MS = 10_000;
const WARM_TIMEOUT_MS = 300_000;
const FORKS = [1, 4] as const;

export async function hibernations(bench: SnapshotBench): Promise<Measurement[]> {
  const { agent, rounds, signal, progress } = bench;
  const { sandboxes } = agent.client;
  const options = { signal, timeoutMs: CALL_TIMEOUT_MS };
  const { id } = await agent.create(signal);
  const rawPath = join(agent.dir, 'raw-memory');
  const samples = {
    hibernate: [] as number[],
    write: [] as number[],
    resume: [] as number[],
    read: [] as number[],
    coldResume: [] as number[],
    coldRead: [] as number[],
  };
  let writtenBytes = 0;
  // What the guest has in its memory: what it began with, give or take the little that it has changed since.
  const sizeBytes = await usedBytes(await baseMemoryOf(agent, id));
  for (let round = 0; round <= rounds; round += 1) {
    progress(`hibernations: ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`);
    for (const cache of ['warm', 'cold'] as const) {
      await execByAgent(agent, id, ['/bin/true'], signal);
      const hibernateMs = await timeMs(() => sandboxes.hibernateSandbox({ id }, options));
      const files = await hibernationOf(agent, id);
      writtenBytes = await usedBytes(files.memory);
      const writeMs = await writeRaw(rawPath, sizeBytes);
      if (cache === 'cold') for (const path of [rawPath, files.memory]) await forgetPages(path);
      const readMs = await readRaw(rawPath);
      const resumeMs = await timeMs(() => sandboxes.resumeSandbox({ id }, options));
      if (round === 0) continue;
      samples.hibernate.push(hibernateMs);
      samples.write.push(writeMs);
      (cache === 'warm' ? samples.read : samples.coldRead).push(readMs);
      (cache === 'warm' ? samples.resume : samples.coldResume).push(resumeMs);
    }
  }
  await agent.destroy(id);
  const target = { kind: 'time', ratio: 1.5 } as const;
  const mibOf = (bytes: number): number => Math.round(bytes / 1024 / 1024);
  const row = (what: string, samplesMs: number[], floor: string, floorMs: number[]): Measurement => ({
    what: `${what}, ${mibOf(sizeBytes)} MiB, ${mibOf(writtenBytes)} of them its own`,
    samplesMs,
    floor: { what: floor, samplesMs: floorMs },
    target,
  });
  return [
    row('hibernate', samples.hibernate, 'write and fsync', samples.write),
    row('resume, from the page cache', samples.resume, 'read from the page cache', samples.read),
    row('resume, from the disk', samples.coldResume, 'read from the disk', samples.coldRead),
  ];
}

/** Of the warm template that it was created from. */
async function baseMemoryOf(agent: BenchAgent, id: string): Promise<string> {
  const { snapshotId } = await agent.journalOf(id);
  if (snapshotId === null) throw new Error(`sandbox ${id} has booted: there is no warm template`);
  return join(agent.dir, 'snapshots', snapshotId, 'memory');
}

async function hibernationOf(agent: BenchAgent, id: string): Promise<{ memory: string }> {
  const dir = join(agent.dir, 'sandboxes', id);
  const name = (await readdir(dir)).find((entry) => entry.startsWith('hibernation-'));
  if (name === undefined) throw new Error(`sandbox ${id} has no files of a hibernation`);
  return { memory: join(dir, name, 'memory') };
}

export async function forks({ agent, rounds, signal, progress }: SnapshotBench): Promise<Measurement[]> {
  const { id } = await agent.create(signal);
  const measurements: Measurement[] = [];
  for (const count of FORKS) {
    const samplesMs: number[] = [];
    for (let round = 0; round <= rounds; round += 1) {
      progress(`forks, ${count} copies: ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`);
      const beganAt = performance.now();
      const { sandboxes } = await agent.client.sandboxes.forkSandbox(
        { id, count },
        { signal, timeoutMs: CALL_TIMEOUT_MS },
      );
      if (round > 0) samplesMs.push(performance.now() - beganAt);
      for (const copy of sandboxes) await agent.destroy(copy.id);
    }
    measurements.push({ what: `fork, ${count === 1 ? 'one copy' : `${count} copies`}`, samplesMs });
  }
  await agent.destroy(id);
  return measurements;
}

/** Of each of some that live at the same time, after a command in each, and after another in each when all are there. */
export async function idleSandboxes(
  { agent, signal, progress }: Pick<SnapshotBench, 'agent' | 'signal' | 'progress' | 'rounds'>,
  count: number = IDLE_SANDBOXES,
): Promise<IdleCost[]> {
  await agent.client.sandboxes.warmTemplate(SIZE, { signal, timeoutMs: WARM_TIMEOUT_MS });
  const ids: string[] = [];
  for (let index = 0; index < count; index += 1) {
    progress(`idle sandboxes: ${index + 1} of ${count}`);
    const { id } = await agent.create(signal);
    ids.push(id);
    await execByAgent(agent, id, ['/bin/true'], signal);
  }
  for (const id of ids) await execByAgent(agent, id, ['/bin/true'], signal);
  progress(`idle sandboxes: a command has run in each of ${count}; measuring`);
  await sleep(SETTLE_MS, undefined, { signal });
  const costs = await idleCosts(agent, ids, IDLE_MS);
  for (const id of ids) await execByAgent(agent, id, ['/bin/true'], signal);
  for (const id of ids) await agent.destroy(id);
  return costs;
}
