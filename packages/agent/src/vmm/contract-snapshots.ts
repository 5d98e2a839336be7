/** The part of what every driver promises (contract.ts) that is about snapshots: each case goes on from the one before. */
import { copyFile, open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hashSparse } from '@wrenn/host';
import { afterEach, expect, it } from 'vitest';
import type { Microvm, RestoreSpec, SnapshotFiles } from './driver.ts';
import { type ContractPart, lastTick, settledTick, waitForLine } from './testing/workbench.ts';

/** Clocks, the generation of the guest, a queue and a packet of each kind. */
const OWN_PAGES_MAX = 12;
const PAGE_BYTES = 4096;
const TICK = /^tick \d+$/;
const MIB = 1024 * 1024;
const memoryMib = 128;
const never = new AbortController().signal;

export function describeSnapshots(
  { createDriver, bench, nothingLeft, bootTimeoutMs }: ContractPart,
  { repeatsByte = false }: { readonly repeatsByte?: boolean | undefined },
): void {
  const TEST_MS = bootTimeoutMs + 30_000;
  const files = (name: string): SnapshotFiles => ({
    statePath: join(bench().dir, `${name}.state`),
    memoryPath: join(bench().dir, `${name}.memory`),
  });
  const spec = (name: string, changes: Partial<RestoreSpec> = {}): RestoreSpec => ({
    ...bench().spec(),
    snapshot: files(name),
    sharedMemory: true,
    ...changes,
  });
  const restore = (restored: RestoreSpec): Promise<Microvm> =>
    createDriver().restore(restored, bench().options());
  const firstTick = async (microvm: Microvm): Promise<number> => {
    await microvm.resume(never);
    await waitForLine(microvm, TICK, bootTimeoutMs);
    const [first = ''] = (await microvm.consoleTail(500)).filter((each) => TICK.test(each));
    return Number(first.slice(5));
  };
  const ticksOn = async (microvm: Microvm): Promise<void> => {
    const seen = await lastTick(microvm);
    await expect.poll(() => lastTick(microvm), { timeout: 30_000 }).toBeGreaterThan(seen + 2);
  };
  const goesOnFrom = async (microvm: Microvm, tick: number): Promise<void> => {
    const first = await firstTick(microvm);
    expect(first).toBeGreaterThan(tick);
    expect(first).toBeLessThan(tick + 5);
    await expect.poll(() => lastTick(microvm), { timeout: 30_000 }).toBeGreaterThan(tick + 3);
  };
  const flipBit = async (path: string, at: number): Promise<void> => {
    const file = await open(path, 'r+');
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, at);
    await file.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
    await file.close();
  };
  let tickAtSnapshot = -1;
  afterEach(() => bench().killProcesses());

  it(
    'is taken of a guest that stands still, and changes nothing for it',
    async () => {
      const microvm = await createDriver().launch(bench().spec(), bench().options());
      await waitForLine(microvm, TICK, bootTimeoutMs);
      await microvm.pause(never);
      const options = { memoryMib, parentMemoryPath: undefined, memory: 'whole', signal: never } as const;
      await microvm.snapshot(files('first'), options);
      expect(await microvm.status(never)).toBe('paused');
      tickAtSnapshot = await settledTick(microvm);
      const { size, blocks } = await stat(files('first').memoryPath);
      expect(size).toBe(memoryMib * MIB);
      // The guest has used some of its memory, and not all of it.
      expect(blocks * 512).toBeGreaterThan(4 * MIB);
      expect(blocks * 512).toBeLessThan(size);
      await microvm.resume(never);
      await expect.poll(() => lastTick(microvm), { timeout: 30_000 }).toBeGreaterThan(tickAtSnapshot);
      await microvm.kill();
      await nothingLeft();
    },
    TEST_MS,
  );

  it(
    'is where each microVM that is restored from it goes on, whatever the others do',
    async () => {
      const memorySha256 = await hashSparse(files('first').memoryPath);
      for (const name of ['a', 'b']) {
        const clone = await restore(spec('first', { memorySha256 }));
        expect(bench().spawned.at(-1), name).toEqual(clone.handle);
        expect(await clone.status(never)).toBe('paused');
        await goesOnFrom(clone, tickAtSnapshot);
        await clone.kill();
        await nothingLeft();
      }
    },
    TEST_MS,
  );

  it(
    'can be taken of one that was restored, also once adopted, and be its own',
    async () => {
      const parent = await restore(spec('first'));
      await firstTick(parent);
      parent.detach();
      const adopted = await createDriver().adopt(structuredClone(parent.handle), never);
      await ticksOn(adopted);
      await adopted.pause(never);
      const parentMemoryPath = files('first').memoryPath;
      await adopted.snapshot(files('second'), {
        memoryMib,
        parentMemoryPath,
        memory: 'whole',
        signal: never,
      });
      const tick = await settledTick(adopted);
      await adopted.kill();
      const child = await restore(spec('second', { sharedMemory: false }));
      await goesOnFrom(child, tick);
      await child.kill();
      await nothingLeft();
    },
    TEST_MS,
  );

  it.skipIf(!createDriver().features.delta)(
    'can be what differs from its parent alone, again and again, with the console going on',
    async () => {
      const parentMemoryPath = files('first').memoryPath;
      let microvm = await restore(spec('first'));
      await firstTick(microvm);
      for (const name of ['third', 'fourth', 'fifth']) {
        await ticksOn(microvm);
        await microvm.pause(never);
        await microvm.snapshot(files(name), { memoryMib, parentMemoryPath, memory: 'delta', signal: never });
        const tick = await settledTick(microvm);
        await microvm.kill();
        const { statePath, memoryPath } = files(name);
        expect((await stat(memoryPath)).size).toBeLessThan(24 * MIB);
        const delta = { path: memoryPath, sha256: await hashSparse(memoryPath) };
        const snapshot = { statePath, memoryPath: parentMemoryPath };
        microvm = await restore(spec(name, { snapshot, delta, keepsLogs: true }));
        await microvm.resume(never);
        await expect.poll(() => lastTick(microvm), { timeout: 30_000 }).toBeGreaterThan(tick);
        const lines = await microvm.consoleTail(500);
        const ticks = lines.filter((each) => /^t+i+c+k+ +\d+$/.test(each));
        // Nothing of it is lost, from before the first of these.
        const first = Number(ticks[0]?.slice(5));
        expect(first).toBeLessThan(tick);
        const expected = ticks.map((each, i) => {
          const whole = `tick ${first + i}`;
          return repeatsByte && withoutOneRepeat(each).includes(whole) ? each : whole;
        });
        expect(ticks).toEqual(expected);
      }
      await microvm.kill();
      await nothingLeft();
    },
    TEST_MS,
  );

  it.skipIf(!createDriver().features.delta)(
    'that is what differs is all that differs, whichever was taken before it',
    async () => {
      const parentMemoryPath = files('first').memoryPath;
      const options = { memoryMib, parentMemoryPath, signal: never };
      const microvm = await restore(spec('first'));
      await firstTick(microvm);
      await microvm.pause(never);
      // The later ones have little to tell that has changed since the one before, and must tell all of it.
      await microvm.snapshot(files('before'), { ...options, memory: 'delta' });
      await microvm.snapshot(files('whole'), { ...options, memory: 'whole' });
      await microvm.snapshot(files('after'), { ...options, memory: 'delta' });
      await microvm.kill();
      for (const name of ['before', 'after']) {
        const { statePath, memoryPath } = files(name);
        const delta = { path: memoryPath, sha256: await hashSparse(memoryPath) };
        const snapshot = { statePath, memoryPath: parentMemoryPath };
        const child = await restore(spec(name, { snapshot, delta }));
        await child.snapshot(files(`${name}-again`), { ...options, memory: 'whole' });
        await child.kill();
        await nothingLeft();
        const others = await differingPages(files('whole').memoryPath, files(`${name}-again`).memoryPath);
        // What a VMM tells its guest when it restores it, and a packet that came meanwhile.
        expect(others.length, others.join(' ')).toBeLessThan(OWN_PAGES_MAX);
      }
    },
    TEST_MS,
  );

  it(
    'that is not what was written is refused, and leaves nothing',
    async () => {
      const { statePath, memoryPath } = files('first');
      const copy = files('flipped');
      await copyFile(statePath, copy.statePath);
      await copyFile(memoryPath, copy.memoryPath);
      const hashes = { stateSha256: await hashSparse(statePath), memorySha256: await hashSparse(memoryPath) };
      const refused = async (restored: RestoreSpec): Promise<void> => {
        await expect(restore(restored)).rejects.toMatchObject({ code: 'snapshot_corrupt' });
        await nothingLeft();
      };
      for (const path of [copy.statePath, copy.memoryPath]) {
        const at = Math.floor((await stat(path)).size / 2);
        await flipBit(path, at);
        for (const sharedMemory of [true, false]) await refused(spec('flipped', { ...hashes, sharedMemory }));
        await flipBit(path, at);
      }
      if (createDriver().features.delta) {
        const { memoryPath: path } = files('fifth');
        const delta = { path, sha256: await hashSparse(path) };
        await flipBit(path, 1000);
        await refused(
          spec('first', { snapshot: { statePath: files('fifth').statePath, memoryPath }, delta }),
        );
      }
      const whole = await restore(spec('flipped', hashes));
      await whole.kill();
      await nothingLeft();
    },
    TEST_MS,
  );

  it(
    'that is no snapshot, or is missing, is refused and leaves nothing',
    async () => {
      await writeFile(files('torn').statePath, 'no state');
      await copyFile(files('first').memoryPath, files('torn').memoryPath);
      for (const name of ['torn', 'missing']) {
        await expect(restore(spec(name))).rejects.toThrow();
        await nothingLeft();
      }
    },
    TEST_MS,
  );
}

/** Numbers of the pages that are not the same in both. */
async function differingPages(one: string, other: string): Promise<number[]> {
  const [a, b] = await Promise.all([readFile(one), readFile(other)]);
  const pages = Array.from({ length: a.length / PAGE_BYTES }, (_, page) => page);
  return pages.filter((page) => {
    const [from, to] = [page * PAGE_BYTES, (page + 1) * PAGE_BYTES];
    return a.compare(b, from, to, from, to) !== 0;
  });
}

/** What a line may be of which one byte came twice. */
function withoutOneRepeat(line: string): string[] {
  return [...line].flatMap((byte, i) => (byte === line[i + 1] ? [line.slice(0, i) + line.slice(i + 1)] : []));
}
