/**
 * Where a Firecracker that was restored has its guest's memory: it maps the file privately, in one piece up to 3 GiB and
 * in the next ones what is more (there is a gap for devices in the guest's addresses, and none in the file).
 */
import { readFile } from 'node:fs/promises';
import type { ProcessIdentity } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { MemoryPart, MemoryPlace } from '../memory/process.ts';

const MAPPING =
  /^([0-9a-f]{1,12})-([0-9a-f]{1,12}) rw-p ([0-9a-f]{1,16}) ([0-9a-f]{1,8}:[0-9a-f]{1,8}) ([1-9]\d{0,19})\b/;

/** Throws `vmm_api_error` where there is no such memory: that of one that booted is no file's. */
export async function findMemory(
  { pid, startTime }: ProcessIdentity,
  sizeBytes: number,
): Promise<MemoryPlace> {
  const parts = memoryIn(await readFile(`/proc/${pid}/maps`, 'latin1'), sizeBytes);
  if (parts !== undefined) return { pid, startTime, sizeBytes, parts };
  throw new WrennError(
    'vmm_api_error',
    "Firecracker has the guest's memory mapped in another way than known.",
  );
}

/** The private, writable mappings of the one file that is mapped whole, and has this size. */
export function memoryIn(maps: string, sizeBytes: number): MemoryPart[] | undefined {
  const files = new Map<string, (MemoryPart & { readonly offset: number })[]>();
  for (const line of maps.split('\n')) {
    const [, start = '', end = '', offset = '', device = '', inode = ''] = MAPPING.exec(line) ?? [];
    if (inode === '') continue;
    const address = Number.parseInt(start, 16);
    const part = {
      address,
      sizeBytes: Number.parseInt(end, 16) - address,
      offset: Number.parseInt(offset, 16),
    };
    const file = `${device} ${inode}`;
    const parts = files.get(file);
    if (parts === undefined) files.set(file, [part]);
    else parts.push(part);
  }
  const found = [...files.values()].map((parts) => parts.sort((a, b) => a.offset - b.offset));
  return found
    .find((parts) => endOf(parts) === sizeBytes)
    ?.map(({ address, sizeBytes }) => ({ address, sizeBytes }));
}

/** Undefined where something is missing, or there twice. */
function endOf(parts: readonly (MemoryPart & { readonly offset: number })[]): number | undefined {
  let end = 0;
  for (const { offset, sizeBytes } of parts) {
    if (offset !== end) return undefined;
    end += sizeBytes;
  }
  return end;
}
