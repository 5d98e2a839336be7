import { WrennError } from '@wrenn/protocol';
import { expect, it } from 'vitest';
import { oldSystemPrograms } from './system-packages.ts';

const MKE2FS = (version: string) =>
  `mke2fs ${version} (1-Jan-2022)\n\tUsing EXT2FS Library version ${version}\n`;
const EROFS = (options: readonly string[]) =>
  `usage: [options] FILE DIRECTORY\n\n${options.map((option) => ` ${option}  what it does\n`).join('')}`;
const OPTIONS = ['--all-root', '--preserve-mtime', '--quiet'];

/** By what the two say of themselves. */
async function oldOf(ext4: string, erofs: string): Promise<string[]> {
  return await oldSystemPrograms(async (program, args) => ({
    stdout: '',
    stderr: `${program} ${args.join(' ')}` === 'mkfs.ext4 -V' ? ext4 : erofs,
  }));
}

it('tells of programs that are too old, as those of Ubuntu 22.04', async () => {
  expect(await oldOf(MKE2FS('1.46.5'), EROFS(['--all-root', '--help']))).toEqual([
    'mkfs.ext4 is too old: Wrenn needs that of e2fsprogs 1.47, or a newer one.',
    'mkfs.erofs is too old: Wrenn needs that of erofs-utils 1.5, or a newer one.',
  ]);
});

it.each(['1.47.0', '1.47.2', '1.100', '2.0'])('takes mke2fs %s', async (version) => {
  expect(await oldOf(MKE2FS(version), EROFS(OPTIONS))).toEqual([]);
});

it('takes what cannot be told for new, leaves what is missing to others, and takes what this machine has', async () => {
  expect(await oldOf('who knows', 'nothing')).toEqual([]);
  const missing = oldSystemPrograms(async () => {
    throw new WrennError('missing_program', 'none');
  });
  expect(await missing).toEqual([]);
  expect(await oldSystemPrograms()).toEqual([]);
});
