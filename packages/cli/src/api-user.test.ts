import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { giveToApi } from './api-user.ts';

const UID = 1_899_999_990;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-give-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe.runIf(process.getuid?.() === 0)("a directory of the API's", () => {
  const of = (path: string) => {
    const { uid, gid, mode } = statSync(path);
    return [uid, gid, mode & 0o777];
  };

  it('is given to it where nobody has used it, and stays its own', () => {
    const place = join(dir, 'a', 'b');
    giveToApi(place, UID);
    expect(of(place)).toEqual([UID, UID, 0o711]);
    expect(statSync(join(dir, 'a')).uid).toBe(0);
    writeFileSync(join(place, 'store'), '');
    giveToApi(place, UID);
    const empty = join(dir, 'empty');
    mkdirSync(empty);
    giveToApi(empty, UID);
    expect(of(empty)).toEqual([UID, UID, 0o711]);
  });

  it("is never another's", () => {
    mkdirSync(join(dir, 'lib'), { mode: 0o755 });
    writeFileSync(join(dir, 'lib', 'of-others'), '');
    expect(() => giveToApi(join(dir, 'lib'), UID)).toThrow(
      expect.objectContaining({ code: 'invalid_config', field: 'store.dataDir' }),
    );
    expect(of(join(dir, 'lib'))).toEqual([0, 0, 0o755]);
  });
});
