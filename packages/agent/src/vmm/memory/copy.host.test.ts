/** The memory of a real process: perl-base, which is on every Debian, maps it; what it writes is written through /proc. */
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, readlink, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { identify } from '@wrenn/host';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CopiedMemory, copyMemory } from './copy.ts';
import { PAGE_BYTES } from './process.ts';
import {
  MAP,
  type Mapped,
  pageOf,
  perl,
  put,
  range,
  withMapped,
  writePages,
  ZERO,
} from './testing/mapped.ts';

const never = new AbortController().signal;
const MIB = 1024 * 1024;
/** More than is looked at at once, which is 128 MiB. */
const SIZE = 132 * MIB;
const PAGES = SIZE / PAGE_BYTES;

/** A child that has ended, and that nobody has asked about. */
const ZOMBIE = `
my $pid = fork();
exit 0 if $pid == 0;
$| = 1;
while (1) { open(my $f, "<", "/proc/$pid/stat") or die; last if <$f> =~ /\\) Z /; select(undef, undef, undef, 0.01); }
print "$pid\\n";
<STDIN>;
`;

let dir: string;
let parentPath: string;
let copyPath: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-copy-'));
  parentPath = join(dir, 'parent');
  copyPath = join(dir, 'copy');
});
afterEach(() => rm(dir, { recursive: true }));

const copyOf = (mapped: Mapped, hasParent: boolean, signal: AbortSignal = never): Promise<CopiedMemory> =>
  copyMemory(mapped, copyPath, { parentPath: hasParent ? parentPath : undefined, signal });

/** The whole file against the pages that are not zero. */
async function expectPages(path: string, pages: Map<number, Buffer>): Promise<void> {
  const expected = Buffer.alloc(SIZE);
  for (const [page, bytes] of pages) bytes.copy(expected, page * PAGE_BYTES);
  expect(hash(await readFile(path))).toBe(hash(expected));
}
const startOf = async (pid: number): Promise<string> => (await identify(pid))?.startTime ?? '';
const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe('a copy of memory that has a parent', () => {
  /** Data at both ends, alone, in a long run, and on both sides of where the look is divided; holes between. */
  const parentPages = (): Map<number, Buffer> =>
    new Map([0, 7, ...range(1000, 700), ...range(32_760, 16), PAGES - 1].map((page) => [page, pageOf(page)]));

  it('has what was changed, as zero what was zeroed, and the rest as it was; its parent is untouched', async () => {
    const model = parentPages();
    const before = new Map(model);
    await writePages(parentPath, SIZE, model);
    await withMapped(SIZE, parentPath, async (mapped) => {
      // Looked at, and so present in the process, but not its own.
      for (const page of [7, 1100, 2000]) {
        const at = mapped.address + page * PAGE_BYTES;
        await mapped.memory.read(Buffer.alloc(1), 0, 1, at);
      }
      // Data to other data, data to zero, hole to data, hole to zero; runs of each longer than one read of 256 pages.
      const changed = [0, ...range(1200, 300), 32_767, 32_768, PAGES - 1];
      const zeroed = [...range(1500, 100), 32_765, 32_770];
      const filled = [3, ...range(5000, 600), PAGES - 2];
      const zeroStill = [5, ...range(9000, 300)];
      for (const page of [...changed, ...filled]) await put(mapped, model, page, pageOf(-1 - page));
      for (const page of [...zeroed, ...zeroStill]) await put(mapped, model, page, ZERO);
      // Written, and as it was before.
      await put(mapped, model, 1700 - 1, pageOf(1700 - 1));
      const { changedPages, writtenPages } = await copyOf(mapped, true);
      expect(writtenPages).toBe(changed.length + filled.length + 1);
      expect(changedPages).toBe(writtenPages + zeroed.length + zeroStill.length);
    });
    await expectPages(copyPath, model);
    await expectPages(parentPath, before);
    const [copy, parent] = [await stat(copyPath), await stat(parentPath)];
    expect(copy.size).toBe(SIZE);
    // Pages that stay zero take no room.
    expect((copy.blocks - parent.blocks) * 512).toBeLessThanOrEqual(602 * PAGE_BYTES + 64 * 1024);
  });

  it('is the parent itself where nothing has changed', async () => {
    const model = parentPages();
    await writePages(parentPath, SIZE, model);
    await withMapped(SIZE, parentPath, async (mapped) => {
      expect(await copyOf(mapped, true)).toEqual({ changedPages: 0, writtenPages: 0 });
    });
    await expectPages(copyPath, model);
  });

  it('goes on from copy to copy without losing what none of the later ones has changed', async () => {
    const model = parentPages();
    await writePages(parentPath, SIZE, model);
    for (let generation = 0; generation < 3; generation++) {
      copyPath = join(dir, `copy-${generation}`);
      await withMapped(SIZE, parentPath, async (mapped) => {
        const first = 1000 + generation * 50;
        for (const page of range(first, 100)) await put(mapped, model, page, pageOf(generation));
        for (const page of range(first + 80, 40)) await put(mapped, model, page, ZERO);
        await copyOf(mapped, true);
      });
      await expectPages(copyPath, model);
      parentPath = copyPath;
    }
  });
});

describe('a copy of memory without a parent', () => {
  it('has what was written, and holes for the rest', async () => {
    const model = new Map<number, Buffer>();
    await withMapped(SIZE, undefined, async (mapped) => {
      // Looked at first: the kernel's page of zeroes, shared by all.
      await mapped.memory.read(Buffer.alloc(PAGE_BYTES * 8), 0, PAGE_BYTES * 8, mapped.address);
      const written = [0, ...range(700, 600), 32_767, 32_768, PAGES - 1];
      for (const page of written) await put(mapped, model, page, pageOf(page));
      for (const page of range(800, 100)) await put(mapped, model, page, ZERO);
      expect(await copyOf(mapped, false)).toMatchObject({ writtenPages: written.length - 100 });
    });
    await expectPages(copyPath, model);
    const { size, blocks } = await stat(copyPath);
    expect(size).toBe(SIZE);
    expect(blocks * 512).toBeLessThanOrEqual(model.size * PAGE_BYTES + 64 * 1024);
  });
});

describe('a copy that cannot be', () => {
  it('is refused where something has its name', async () => {
    await withMapped(SIZE, undefined, async (mapped) => {
      await copyOf(mapped, false);
      await expect(copyOf(mapped, false)).rejects.toMatchObject({ code: 'EEXIST' });
    });
  });

  it('fails when it is aborted', async () => {
    await writePages(parentPath, SIZE, new Map([[0, pageOf(0)]]));
    await withMapped(SIZE, parentPath, async (mapped) => {
      await expect(copyOf(mapped, true, AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
    });
  });

  it('fails when the process has ended, and is never taken for one that has changed nothing', async () => {
    await writePages(parentPath, SIZE, new Map([[0, pageOf(0)]]));
    const { said: pid, kill } = await perl(ZOMBIE);
    for (const parent of [parentPath, undefined]) {
      const source = {
        pid,
        startTime: await startOf(pid),
        sizeBytes: SIZE,
        parts: [{ address: 16 * MIB, sizeBytes: SIZE }],
      };
      await expect(copyMemory(source, copyPath, { parentPath: parent, signal: never })).rejects.toThrow();
      await rm(copyPath, { force: true });
    }
    kill();
  });

  it('fails when the process ends in the middle of it', async () => {
    // So large that a look at all of it takes a while, and nothing in it: nothing else would tell.
    const sizeBytes = 512 * 1024 * MIB;
    const { pid, said: address, kill } = await perl(MAP, String(sizeBytes));
    const source = { pid, startTime: await startOf(pid), sizeBytes, parts: [{ address, sizeBytes }] };
    const copying = copyMemory(source, copyPath, {
      parentPath: undefined,
      signal: never,
    });
    copying.catch(() => {});
    const pagemap = `/proc/${pid}/pagemap`;
    const isOpen = async (): Promise<boolean> => {
      const fds = await readdir('/proc/self/fd');
      const links = await Promise.all(fds.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
      return links.includes(pagemap);
    };
    while (!(await isOpen()));
    kill();
    await expect(copying).rejects.toMatchObject({ code: 'vmm_died' });
    expect(await isOpen()).toBe(false);
  });
});
