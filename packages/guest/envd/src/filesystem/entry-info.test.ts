import { toJson } from '@bufbuild/protobuf';
import { EntryInfoSchema, FileType } from '@wrenn/protocol/filesystem';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { permissionString, toEntryInfo } from './entry-info.ts';

describe('permissionString', () => {
  it.each([
    [0o100644, '-rw-r--r--'],
    [0o100000, '----------'],
    [0o40755, 'drwxr-xr-x'],
    [0o41777, 'dtrwxrwxrwx'],
    [0o120777, 'Lrwxrwxrwx'],
    [0o104755, 'urwxr-xr-x'],
    [0o102755, 'grwxr-xr-x'],
    [0o020666, 'Dcrw-rw-rw-'],
    [0o060660, 'Drw-rw----'],
    [0o010644, 'prw-r--r--'],
    [0o140755, 'Srwxr-xr-x'],
  ])('writes %o as Go does: %s', (mode, text) => {
    expect(permissionString(mode)).toBe(text);
  });
});

describe('toEntryInfo', () => {
  const facts = {
    path: '/data/report.txt',
    stats: { mode: 0o100640, sizeBytes: 12n, modifiedNs: 1_700_000_000_123_456_789n },
    owner: 'user',
    group: 'user',
    metadata: { kind: 'draft' },
  };

  it('tells a file', () => {
    expect(toEntryInfo(facts)).toMatchObject({
      name: 'report.txt',
      path: '/data/report.txt',
      type: FileType.FILE,
      mode: 0o640,
      permissions: '-rw-r-----',
      size: 12n,
      modifiedTime: { seconds: 1_700_000_000n, nanos: 123_456_789 },
      metadata: { kind: 'draft' },
    });
    expect(toEntryInfo(facts).symlinkTarget).toBeUndefined();
  });

  it('gives a link the type and mode of its target and keeps the rest of the link', () => {
    const stats = { ...facts.stats, mode: 0o120777 };
    const info = toEntryInfo({ ...facts, stats, symlink: { target: '/data', targetMode: 0o40750 } });
    expect(info).toMatchObject({
      type: FileType.DIRECTORY,
      mode: 0o750,
      permissions: 'Lrwxrwxrwx',
      symlinkTarget: '/data',
    });
  });

  it('keeps a link that leads nowhere visible', () => {
    const stats = { ...facts.stats, mode: 0o120777 };
    const info = toEntryInfo({ ...facts, stats, symlink: { target: 'gone', targetMode: undefined } });
    expect(info).toMatchObject({ type: FileType.SYMLINK, mode: 0, symlinkTarget: 'gone' });
  });

  it('names the root', () => {
    expect(toEntryInfo({ ...facts, path: '/' }).name).toBe('/');
  });

  it.each([
    [253_402_300_800n, '9999-12-31T23:59:59.999999999Z'],
    [2n ** 62n, '9999-12-31T23:59:59.999999999Z'],
    [-62_135_596_801n, '0001-01-01T00:00:00Z'],
    [253_402_300_799n, '9999-12-31T23:59:59Z'],
    [-62_135_596_800n, '0001-01-01T00:00:00Z'],
  ])('tells a time of %d s as one that JSON has', (seconds, text) => {
    const stats = { ...facts.stats, modifiedNs: seconds * 1_000_000_000n };
    expect(toJson(EntryInfoSchema, toEntryInfo({ ...facts, stats }))).toMatchObject({ modifiedTime: text });
  });

  it('splits every time, also before 1970, into seconds and nanoseconds that count forward', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 62n), max: 2n ** 62n }), (modifiedNs) => {
        const time = toEntryInfo({ ...facts, stats: { ...facts.stats, modifiedNs } }).modifiedTime;
        expect(time?.nanos).toBeGreaterThanOrEqual(0);
        expect(time?.nanos).toBeLessThan(1e9);
        expect((time?.seconds ?? 0n) * 1_000_000_000n + BigInt(time?.nanos ?? 0)).toBe(modifiedNs);
      }),
    );
  });
});
