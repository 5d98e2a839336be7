/** With the system's own apt, on directories of ours. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { aptOptions, openArchive } from './debian.ts';

const hasApt = spawnSync('apt-config', ['--version']).status === 0;

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'wrenn-debian-'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(root, { recursive: true });
});

describe.runIf(hasApt)('an apt of our own', () => {
  it("takes the host's proxies and none of its choices", () => {
    const file = join(root, 'apt.conf');
    const host = [
      'APT::Default-Release "trixie";',
      'Dir::Etc::preferences "/etc/apt/pins";',
      'Dir::Etc::preferencesparts "/etc/apt/pins.d";',
      'Acquire::http::Proxy "http://proxy.example:3128";',
    ];
    writeFileSync(file, host.join('\n'));
    const { stdout } = spawnSync('apt-config', [...aptOptions(root), 'dump'], {
      env: { ...process.env, APT_CONFIG: file },
      encoding: 'utf8',
    });
    const settings = stdout.split('\n');
    expect(settings).toContain('APT::Default-Release "";');
    expect(settings).toContain('Dir::Etc::preferences "/dev/null";');
    expect(settings).toContain('Dir::Etc::preferencesparts "/dev/null";');
    expect(settings).toContain('Acquire::http::Proxy "http://proxy.example:3128";');
  });

  it('says so when it cannot fetch the package lists', { timeout: 60_000 }, async () => {
    vi.stubEnv('WRENN_DEBIAN_MIRROR', 'http://127.0.0.1:1');
    const archive = await openArchive(root);
    await expect(archive.update()).rejects.toMatchObject({
      code: 'command_failed',
      message: expect.stringMatching(/exit code 100: .*127\.0\.0\.1:1/),
    });
  });
});
