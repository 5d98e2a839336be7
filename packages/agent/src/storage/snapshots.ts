/**
 * Snapshots on disk: what sandboxes start from besides a boot. A directory each, immutable once it has its name:
 *
 *   snapshots/<id>/manifest.json    what it is, of what, made by which VMM; the guest's access token, so root's alone
 *   snapshots/<id>/state            the VMM's own
 *   snapshots/<id>/memory           sparse
 *   snapshots/<id>/layer.ext4       the private disk, as it was
 *   snapshots/.new-<id>/            one that is being written; after a crash it is removed
 *
 * A draft gets its name by a rename, after everything in it is on the disk: so a snapshot is whole or not there.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { hashSparse, syncDirectory, syncFile, writeFileDurably } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';

const MANIFEST_MAX_BYTES = 4 * 1024 * 1024;
const MANIFEST = 'manifest.json';
const DRAFT = '.new-';

const path = z.string().min(1).max(4096).startsWith('/');
const name = z.string().min(1).max(128);
const whole = z.int().min(0);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const manifestSchema = z.strictObject({
  /** In the first the hash of the memory was another one, which nobody compared. */
  version: z.union([z.literal(1), z.literal(2)]),
  id: z.string().regex(/^[a-z0-9]{20}$/),
  /** `warm`: of a template, made by the agent and replaced by it; `user`: asked for; `fork`: goes with the last copy. */
  kind: z.enum(['warm', 'user', 'fork']),
  createdAtMs: whole,
  /** Of the sandbox that it was taken of; null for a template's. */
  sandboxId: z.string().nullable(),
  template: z.strictObject({
    name,
    buildId: name,
    rootfsPath: path,
    guestImagePath: path,
    kernelPath: path,
    initrdPath: path,
  }),
  /** It can be restored by the same alone. */
  vmm: z.strictObject({
    driver: z.enum(['qemu', 'firecracker']),
    version: name,
    accelerator: z.enum(['kvm', 'tcg']),
  }),
  vcpus: whole,
  memoryMib: whole,
  diskMib: whole,
  /** The guest knows it, until a copy is given its own. */
  accessToken: z.string().min(1).max(256),
  envs: z.record(z.string(), z.string()),
  stateSha256: sha256,
  /** As `hashSparse` has it. */
  memorySha256: sha256,
});

export type SnapshotManifest = z.output<typeof manifestSchema>;

export interface Snapshot extends SnapshotManifest {
  readonly statePath: string;
  readonly memoryPath: string;
  readonly layerPath: string;
}

export interface SnapshotDraft {
  readonly statePath: string;
  readonly memoryPath: string;
  readonly layerPath: string;
  /** Makes it last and gives it its name. */
  commit(about: Omit<SnapshotManifest, 'version' | 'id' | 'stateSha256' | 'memorySha256'>): Promise<Snapshot>;
  /** Takes it away unless it was committed. Idempotent. */
  discard(): Promise<void>;
}

export interface Snapshots {
  /**
   * To be called once, before the rest: finds those there are, and removes what was not finished. `onProblem` is told
   * of those that cannot be read, which are left alone.
   */
  load(onProblem: (id: string, error: unknown) => void): Promise<void>;
  /** Newest first. */
  list(): Snapshot[];
  /** Throws `snapshot_not_found`. */
  get(id: string): Snapshot;
  draft(id: string): Promise<SnapshotDraft>;
  /** Whether it may be is the caller's business. Idempotent. */
  remove(id: string): Promise<void>;
}

export function createSnapshots(snapshotsDir: string): Snapshots {
  const known = new Map<string, Snapshot>();
  const filesIn = (dir: string) => ({
    statePath: join(dir, 'state'),
    memoryPath: join(dir, 'memory'),
    layerPath: join(dir, 'layer.ext4'),
  });

  return {
    async load(onProblem) {
      await mkdir(snapshotsDir, { recursive: true, mode: 0o700 });
      for (const entry of await readdir(snapshotsDir)) {
        const dir = join(snapshotsDir, entry);
        if (entry.startsWith(DRAFT)) {
          await rm(dir, { recursive: true, force: true });
          continue;
        }
        try {
          const manifest = await readManifest(join(dir, MANIFEST), entry);
          const snapshot = { ...manifest, ...filesIn(dir) };
          await checkFiles(snapshot);
          known.set(entry, snapshot);
        } catch (error) {
          onProblem(entry, error);
        }
      }
    },
    list: () => [...known.values()].sort((a, b) => b.createdAtMs - a.createdAtMs || (a.id < b.id ? -1 : 1)),
    get(id) {
      const snapshot = known.get(id);
      if (snapshot !== undefined) return snapshot;
      throw new WrennError('snapshot_not_found', `There is no snapshot ${id.slice(0, 40)}.`, {
        hint: '`wrenn snapshot ls` lists those there are.',
        field: 'snapshot',
      });
    },
    async draft(id) {
      const dir = join(snapshotsDir, `${DRAFT}${id}`);
      const files = filesIn(dir);
      let done = false;
      await mkdir(dir, { mode: 0o700 });
      return {
        ...files,
        async commit(about) {
          const [stateSha256, memorySha256] = await Promise.all([
            hashOf(files.statePath),
            hashSparse(files.memoryPath),
            ...Object.values(files).map(syncFile),
          ]);
          const manifest: SnapshotManifest = { version: 2, id, ...about, stateSha256, memorySha256 };
          await writeFileDurably(join(dir, MANIFEST), `${JSON.stringify(manifest)}\n`, { mode: 0o600 });
          const committed = join(snapshotsDir, id);
          await rename(dir, committed);
          await syncDirectory(snapshotsDir);
          done = true;
          const snapshot = { ...manifest, ...filesIn(committed) };
          known.set(id, snapshot);
          return snapshot;
        },
        async discard() {
          if (!done) await rm(dir, { recursive: true, force: true });
        },
      };
    },
    async remove(id) {
      if (!known.delete(id)) return;
      // Without its name first: a crash in the middle leaves a draft, not half a snapshot.
      const dying = join(snapshotsDir, `${DRAFT}${id}`);
      await rename(join(snapshotsDir, id), dying);
      await rm(dying, { recursive: true, force: true });
    },
  };
}

async function readManifest(file: string, id: string): Promise<SnapshotManifest> {
  const { size } = await stat(file);
  if (size > MANIFEST_MAX_BYTES) throw corrupt(id, `its manifest has ${size} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, 'utf8'));
  } catch {
    throw corrupt(id, 'its manifest is not JSON');
  }
  const parsed = manifestSchema.safeParse(value);
  if (!parsed.success) throw corrupt(id, parsed.error.issues[0]?.message ?? '');
  if (parsed.data.id !== id) throw corrupt(id, `it is that of ${parsed.data.id}`);
  return parsed.data;
}

/** What a look can tell; the state is small enough to be read. */
async function checkFiles({ id, memoryMib, diskMib, stateSha256, ...files }: Snapshot): Promise<void> {
  const sizeOf = async (file: string): Promise<number> => (await stat(file)).size / (1024 * 1024);
  if ((await sizeOf(files.memoryPath)) !== memoryMib) throw corrupt(id, 'its memory has another size');
  if ((await sizeOf(files.layerPath)) !== diskMib) throw corrupt(id, 'its disk has another size');
  if ((await hashOf(files.statePath)) !== stateSha256) throw corrupt(id, 'its state is another');
}

function corrupt(id: string, problem: string): WrennError {
  return new WrennError('snapshot_corrupt', `The snapshot ${id} cannot be used: ${problem}.`);
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 1024 * 1024 })) hash.update(chunk);
  return hash.digest('hex');
}
