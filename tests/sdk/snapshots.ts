/** Snapshots and copies of sandboxes, and what they may reach. */
import { expect, it } from 'vitest';
import type { Context } from './context.ts';
import { nameOf } from './sdks.ts';

export function snapshotCases(context: Context): void {
  it.runIf(context.has('Sandbox#createSnapshot') && !context.version.leaves.includes('snapshot'))(
    'are made, listed, started from and deleted',
    async () => {
      const { sdk } = context;
      const sandbox = await context.create({ metadata: { of: 'snapshot' } });
      await sandbox.files.write('kept', 'in the snapshot');
      const name = `sdk-${nameOf(context.version).replace('.', '-')}`;
      const snapshots = [await sandbox.createSnapshot()];
      if (context.isNewest) snapshots.unshift(await sandbox.createSnapshot({ name: `${name}:v1` }));
      await sandbox.files.write('kept', 'later');
      const newestFirst = snapshots.map(({ snapshotId }) => snapshotId);
      const oldest = newestFirst.at(-1) ?? '';
      const page = sandbox.listSnapshots();
      expect(page.hasNext).toBe(true);
      const listed = (await page.nextItems()).map(({ snapshotId }) => snapshotId);
      expect([listed, page.hasNext]).toEqual([newestFirst, false]);
      const all = (await sdk.Sandbox.listSnapshots({ limit: 100 }).nextItems()).map(
        ({ snapshotId }) => snapshotId,
      );
      expect(all).toEqual(expect.arrayContaining(listed));
      if (context.isNewest) {
        expect(snapshots.map(({ names }) => names)).toEqual([[`${name}:v1`], []]);
        const found = await sdk.Sandbox.listSnapshots({ name: `${name}:v1` }).nextItems();
        expect(found.map(({ snapshotId }) => snapshotId)).toEqual([newestFirst[0]]);
        const paged = sdk.Sandbox.listSnapshots({ sandboxId: sandbox.sandboxId, limit: 1 });
        expect([(await paged.nextItems()).length, typeof paged.nextToken]).toEqual([1, 'string']);
        expect((await paged.nextItems()).map(({ snapshotId }) => snapshotId)).toEqual([oldest]);
      }

      const copy = context.adopt(await sdk.Sandbox.create(oldest, { envs: { NEW: 'one' } }));
      expect(await copy.files.read('kept')).toBe('in the snapshot');
      expect((await copy.commands.run('echo $NEW $E2B_SANDBOX_ID')).stdout).toBe(`one ${copy.sandboxId}\n`);
      expect(await sandbox.files.read('kept')).toBe('later');
      await Promise.all([copy.kill(), sandbox.kill()]);
      for (const id of newestFirst) expect(await sdk.Sandbox.deleteSnapshot(id)).toBe(true);
      expect(await sdk.Sandbox.deleteSnapshot(oldest)).toBe(false);
      await expect(sdk.Sandbox.create(oldest)).rejects.toThrow(/404/);
      await expect(sdk.Sandbox.createSnapshot(sandbox.sandboxId)).rejects.toBeInstanceOf(sdk.NotFoundError);
    },
  );

  it.runIf(context.has('Sandbox#fork') && !context.version.leaves.includes('fork'))(
    'fork into copies that go on by themselves',
    async () => {
      const { sdk } = context;
      const sandbox = await context.create({ metadata: { of: 'fork' } });
      await sandbox.files.write('mark', 'same');
      const forks = [
        ...(await sandbox.fork({ count: 2, timeoutMs: 60_000 })),
        ...(await sdk.Sandbox.fork(sandbox.sandboxId)),
      ];
      const ids = new Set([sandbox.sandboxId]);
      for (const fork of forks) {
        if (fork instanceof Error) throw fork;
        context.adopt(fork);
        ids.add(fork.sandboxId);
        expect(await fork.files.read('mark')).toBe('same');
        await fork.files.write('mark', fork.sandboxId);
        expect((await fork.getInfo()).metadata).toEqual({ of: 'fork' });
      }
      expect(ids.size).toBe(4);
      expect(await sandbox.files.read('mark')).toBe('same');
      await Promise.all([...ids].map((id) => sdk.Sandbox.kill(id)));
      await expect(sdk.Sandbox.fork(sandbox.sandboxId)).rejects.toBeInstanceOf(sdk.NotFoundError);
    },
  );
}
