import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CpioEntry, writeCpio } from './cpio.ts';

describe('writeCpio', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'wrenn-cpio-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const unpack = (entries: CpioEntry[]) =>
    execFileSync('/bin/busybox', ['cpio', '-i', '-d'], {
      cwd: directory,
      input: writeCpio(entries),
      stdio: 'pipe',
    });

  it('writes what another program unpacks to the same tree', () => {
    unpack([
      { kind: 'directory', path: 'bin', mode: 0o755 },
      { kind: 'file', path: 'bin/tool', mode: 0o750, data: Buffer.from('contents\n') },
      { kind: 'symlink', path: 'link', target: 'bin/tool' },
    ]);
    expect(readFileSync(join(directory, 'bin/tool'), 'utf8')).toBe('contents\n');
    expect(statSync(join(directory, 'bin/tool')).mode & 0o777).toBe(0o750);
    expect(readlinkSync(join(directory, 'link'))).toBe('bin/tool');
  });

  it('keeps every byte and stays aligned, whatever the lengths', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 4 }), (contents) => {
        const entries = contents.map(
          (data, index): CpioEntry => ({ kind: 'file', path: 'n'.repeat(index + 1), mode: 0o644, data }),
        );
        const archive = writeCpio(entries);
        expect(archive.length % 4).toBe(0);
        for (const data of contents) expect(archive.includes(Buffer.from(data))).toBe(true);
      }),
    );
  });
});
