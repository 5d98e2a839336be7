/** The part of what every driver promises (contract.ts) that is about launches that fail: each says so and leaves nothing. */
import { mkdir, rm, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import type { Microvm, MicrovmHandle } from './driver.ts';
import type { ContractPart } from './testing/workbench.ts';

const never = new AbortController().signal;

export function describeFailedLaunches({
  createDriver,
  bench,
  nothingLeft,
  bootTimeoutMs,
}: ContractPart): void {
  const TEST_MS = bootTimeoutMs + 30_000;

  afterEach(nothingLeft);

  it(
    'for want of a kernel, a drive, a TAP or a namespace says so',
    async () => {
      const { drives, network } = bench().spec();
      const missing = [
        { kernelPath: join(bench().dir, 'no-kernel') },
        { initrdPath: join(bench().dir, 'no-initrd') },
        {
          drives: [
            ...drives.slice(0, 2),
            { id: 'layer', path: join(bench().dir, 'no-layer'), readOnly: false },
          ],
        },
        { network: { ...network, tap: 'notap0' } },
        { network: { ...network, netns: 'wrvm-no-such' } },
        { kernelPath: join(bench().dir, 'init') },
      ];
      for (const changes of missing) {
        const launch = createDriver().launch(bench().spec(changes), bench().options());
        await expect(launch, JSON.stringify(changes)).rejects.toMatchObject({
          name: 'WrennError',
          message: expect.stringMatching(/no-kernel|no-initrd|no-layer|notap0|wrvm-no-such|kernel|init/),
        });
        await nothingLeft();
      }
    },
    TEST_MS,
  );

  it(
    'for finding its layer and TAP in use says so',
    async () => {
      const runDir = join(bench().dir, 'run2');
      await mkdir(runDir);
      const running = await createDriver().launch(bench().spec(), bench().options());
      try {
        const { network: _, ...rest } = bench().spec();
        const second = createDriver().launch(bench().spec({ ...rest, runDir }), bench().options());
        await expect(second).rejects.toMatchObject({
          code: expect.stringMatching(/^vmm_(died|api_error)$/),
        });
      } finally {
        await running.kill();
        await rm(runDir, { recursive: true });
      }
    },
    TEST_MS,
  );

  it('since its handle could not be journalled leaves nothing', async () => {
    const onSpawned = async () => {
      throw new Error('the disk is full');
    };
    const launch = createDriver().launch(bench().spec(), { signal: never, onSpawned });
    await expect(launch).rejects.toThrow('the disk is full');
  });

  it(
    'for being called off, at whatever moment, leaves nothing',
    async () => {
      await expect(
        createDriver().launch(bench().spec(), bench().options(AbortSignal.abort())),
      ).rejects.toMatchObject({
        code: 'cancelled',
      });
      for (let afterMs = 0; afterMs < 200; afterMs += 5 + Math.random() * 25) {
        const launch = createDriver().launch(
          bench().spec(),
          bench().options(AbortSignal.timeout(Math.floor(afterMs))),
        );
        // A slow abort comes too late: then there is a microVM, and it is whole.
        const outcome = await launch.then(
          (microvm) => microvm,
          (error: unknown) => error,
        );
        if (outcome instanceof Error) expect(outcome).toMatchObject({ code: 'cancelled' });
        else await (outcome as Microvm).kill();
        await nothingLeft();
      }
    },
    TEST_MS,
  );

  it(
    'for its VMM or a wrapper being killed, at whatever moment, leaves nothing',
    async () => {
      for (let afterMs = 0; afterMs < 200; afterMs += 10 + Math.random() * 25) {
        const onSpawned = async ({ pid, wrappers }: MicrovmHandle): Promise<void> => {
          const victim = Math.random() < 0.7 ? pid : (wrappers[0]?.pid ?? pid);
          setTimeout(() => killIfThere(victim), afterMs);
        };
        const launch = createDriver().launch(bench().spec(), { signal: never, onSpawned });
        const outcome = await launch.then(
          (microvm) => microvm,
          (error: unknown) => error,
        );
        // A late kill finds a microVM; without its wrapper it goes on.
        if (outcome instanceof Error) expect(outcome).toMatchObject({ name: 'WrennError' });
        else await (outcome as Microvm).kill();
        await nothingLeft();
      }
    },
    TEST_MS,
  );

  it('does not follow links that an earlier VMM left in its directory', async () => {
    const target = join(bench().dir, 'precious');
    for (const file of ['console.log', 'vmm.log']) {
      await rm(join(bench().dir, 'run', file), { force: true });
      await symlink(target, join(bench().dir, 'run', file));
    }
    const microvm = await createDriver().launch(bench().spec(), bench().options());
    await microvm.kill();
    await expect(stat(target)).rejects.toMatchObject({ code: 'ENOENT' });
  });
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It was quicker.
  }
}
