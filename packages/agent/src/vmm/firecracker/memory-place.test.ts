import { describe, expect, it } from 'vitest';
import { memoryIn } from './memory-place.ts';

const MIB = 1024 * 1024;

/** As Firecracker 1.16.1 in its jail has them, with the guest's memory in the middle. */
const maps = (memory: readonly string[]): string =>
  [
    '55d0a1000000-55d0a1200000 r-xp 00000000 fe:01 1311 /firecracker',
    '55d0a1200000-55d0a1210000 rw-p 00200000 fe:01 1311 /firecracker',
    '55d0a2000000-55d0a2100000 rw-p 00000000 00:00 0 [heap]',
    ...memory,
    '7f0000000000-7f0008000000 rw-p 00000000 00:00 0 ',
    '7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]',
    'ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]',
    '',
  ].join('\n');

describe('the memory of a restored guest', () => {
  it('is the file that is mapped whole, in one piece or two', () => {
    const one = ['7e0000000000-7e0008000000 rw-p 00000000 fe:01 77  /restored.memory'];
    expect(memoryIn(maps(one), 128 * MIB)).toEqual([{ address: 0x7e0000000000, sizeBytes: 128 * MIB }]);

    // The later piece may be at the lower address, and a path may say anything.
    const two = [
      '7d0000000000-7d0040000000 rw-p c0000000 08:01 78 /restored.memory (deleted)',
      '7e0000000000-7e00c0000000 rw-p 00000000 08:01 78 /restored.memory',
    ];
    expect(memoryIn(maps(two), 4096 * MIB)).toEqual([
      { address: 0x7e0000000000, sizeBytes: 3072 * MIB },
      { address: 0x7d0000000000, sizeBytes: 1024 * MIB },
    ]);
  });

  it('is none where the file has another size, a gap, is there twice, is shared, or where there is none', () => {
    const whole = '7e0000000000-7e0008000000 rw-p 00000000 fe:01 77 /restored.memory';
    expect(memoryIn(maps([whole]), 256 * MIB)).toBeUndefined();
    expect(memoryIn(maps([whole, whole.replaceAll('7e00', '7d00')]), 128 * MIB)).toBeUndefined();
    expect(memoryIn(maps([whole.replace('rw-p', 'rw-s')]), 128 * MIB)).toBeUndefined();
    expect(memoryIn(maps([whole.replace(' 00000000 ', ' 00001000 ')]), 128 * MIB)).toBeUndefined();
    expect(memoryIn(maps([]), 128 * MIB)).toBeUndefined();
  });
});
