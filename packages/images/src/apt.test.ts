/** With an apt-get of our own: nothing is installed. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { installPackages, type PackageOptions } from './apt.ts';

let place = '';
let said: string[] = [];
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), 'wrenn-apt-'));
  said = [];
});
afterEach(() => rmSync(place, { recursive: true }));

const WORDS = 'install --no-install-recommends';

it('fetches first, and then installs without fetching', async () => {
  fakeApt('true');
  await install({ names: ['qemu-system-x86', 'nftables'] });
  expect(calls()).toEqual([
    'update',
    `${WORDS} --download-only qemu-system-x86 nftables`,
    `${WORDS} --no-download qemu-system-x86 nftables`,
  ]);
});

it('breaks off what is only fetched', async () => {
  fakeApt('case "$*" in *--download-only*) echo "Get:1 a"; exec sleep 60 ;; esac');
  const controller = new AbortController();
  const running = install({
    signal: controller.signal,
    onProgress: (message) => {
      if (message.startsWith('Get:1')) controller.abort();
    },
  });
  await expect(running).rejects.toMatchObject({ code: 'cancelled' });
  expect(calls()).toEqual(['update', `${WORDS} --download-only hello`]);
});

it('lets what is being installed come to its end, and says so', async () => {
  // As dpkg: whatever signal it got would end it in the middle.
  fakeApt(
    `case "$*" in *--no-download*) echo "Unpacking a"; sleep 1; echo "Setting up a"; echo > ${place}/configured ;; esac`,
  );
  const controller = new AbortController();
  const running = install({
    signal: controller.signal,
    onProgress: (message) => {
      said.push(message);
      if (message.startsWith('Unpacking')) controller.abort();
    },
  });
  await expect(running).rejects.toMatchObject({ code: 'cancelled', message: expect.stringMatching(/after/) });
  expect(existsSync(join(place, 'configured'))).toBe(true);
  expect(said.slice(-2)).toEqual([
    'installing, which must not be broken off (stops after it)',
    'Setting up a (stops after it)',
  ]);
});

it.each([
  ['update', 'update'],
  ['--download-only', 'the fetching'],
  ['--no-download', 'the installation'],
])('waits for another apt with %s', async (phase) => {
  fakeApt(locked(phase, `test ! -e ${place}/tried && echo > ${place}/tried`));
  await install({});
  expect(calls()).toHaveLength(4);
  expect(said).toContain('waiting for another apt, which has /var/lib/apt/lists/lock');
});

it('does not wait for ever, nor for anything else', async () => {
  fakeApt(locked('update', 'true'));
  await expect(install({ othersTimeoutS: 1, othersPollMs: 100 })).rejects.toMatchObject({
    code: 'command_failed',
    message: expect.stringContaining('is held by process 4711 (apt-get)'),
  });
  expect(calls().length).toBeGreaterThan(1);
  rmSync(join(place, 'calls'));
  fakeApt('echo "E: Unable to locate package hello" >&2; exit 100');
  await expect(install({})).rejects.toMatchObject({ message: expect.stringContaining('Unable to locate') });
  expect(calls()).toEqual(['update']);
});

it('is told to stop while it waits', async () => {
  fakeApt(locked('update', 'true'));
  const controller = new AbortController();
  const running = install({
    signal: controller.signal,
    othersPollMs: 60_000,
    onProgress: (message) => {
      if (message.startsWith('waiting')) setTimeout(() => controller.abort(), 50);
    },
  });
  await expect(running).rejects.toMatchObject({ name: 'AbortError' });
});

it('is told to stop while dpkg is locked, and has installed nothing', async () => {
  // As apt: it waits for that lock for as long as it is told to, and nothing breaks it off.
  const lock = '/var/lib/dpkg/lock-frontend';
  fakeApt(
    `case "$*" in *--no-download*) sleep "$seconds"; ${says(lock, 'Unable to acquire the dpkg frontend lock')} ;; esac`,
  );
  const controller = new AbortController();
  const startedAt = performance.now();
  const running = install({
    signal: controller.signal,
    othersPollMs: 60_000,
    onProgress: (message) => {
      said.push(message);
      if (message.startsWith('waiting')) setTimeout(() => controller.abort(), 50);
    },
  });
  await expect(running).rejects.toMatchObject({ name: 'AbortError' });
  expect(performance.now() - startedAt).toBeLessThan(30_000);
  expect(said.at(-1)).toBe(`waiting for another apt, which has ${lock}`);
}, 90_000);

const apt = spawnSync('apt-get', ['--version'], { encoding: 'utf8' });

it.runIf(apt.status === 0).each([
  ['lists/lock', ['update']],
  ['dpkg/lock-frontend', ['-o', 'DPkg::Lock::Timeout=0', 'install', '--no-download']],
])('knows how apt tells of a lock: %s', (name, words) => {
  // The system's own apt, on directories of ours that somebody has locked.
  for (const directory of ['lists/partial', 'archives/partial', 'dpkg'])
    mkdirSync(join(place, directory), { recursive: true });
  writeFileSync(join(place, 'dpkg/status'), '');
  const lock = join(place, name);
  const script =
    'open my $f, ">", shift or die; require Fcntl; ' +
    'fcntl($f, Fcntl::F_SETLK(), pack("s s x![q] q q i x![q]", Fcntl::F_WRLCK(), 0, 0, 0, 0)) or die "$!"; ' +
    '$^F = 0; system("apt-get", @ARGV);';
  const settings = [
    `Dir::State=${place}`,
    `Dir::State::status=${place}/dpkg/status`,
    `Dir::Cache=${place}`,
    'Dir::Etc::sourcelist=/dev/null',
    'Dir::Etc::sourceparts=/dev/null',
    `APT::Sandbox::User=root`,
  ].flatMap((setting) => ['-o', setting]);
  const { stderr } = spawnSync('perl', ['-e', script, lock, ...settings, ...words], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C.UTF-8' },
  });
  expect(stderr).toContain(`E: Could not get lock ${lock}. `);
});

async function install(options: Partial<PackageOptions>): Promise<void> {
  await installPackages({
    names: ['hello'],
    asRoot: [],
    path: `${join(place, 'bin')}:${process.env.PATH}`,
    onProgress: (message) => said.push(message),
    othersTimeoutS: 60,
    othersPollMs: 10,
    ...options,
  });
}

/** Writes its arguments down, but for the options that all calls have; `seconds` are those it is to wait for dpkg's lock. */
function fakeApt(script: string): void {
  mkdirSync(join(place, 'bin'), { recursive: true });
  const path = join(place, 'bin/apt-get');
  writeFileSync(path, `#!/bin/sh\nseconds="\${4#*=}"\nshift 4\necho "$*" >> ${place}/calls\n${script}\n`);
  chmodSync(path, 0o755);
}

function locked(phase: string, condition: string): string {
  const failure = says('/var/lib/apt/lists/lock', 'Unable to lock directory /var/lib/apt/lists/');
  return `case "$*" in *${phase}*) if ${condition}; then ${failure}; fi ;; esac\ntrue`;
}

function says(lock: string, consequence: string): string {
  const lines = [
    `E: Could not get lock ${lock}. It is held by process 4711 (apt-get)`,
    'N: Be aware that removing the lock file is not a solution and may break your system.',
    `E: ${consequence}`,
  ];
  return `${lines.map((line) => `echo "${line}" >&2`).join('; ')}; exit 100`;
}

function calls(): string[] {
  return readFileSync(join(place, 'calls'), 'utf8').trim().split('\n');
}
