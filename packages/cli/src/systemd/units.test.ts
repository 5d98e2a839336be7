import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { unitFiles } from './units.ts';

const settings = {
  node: process.execPath,
  program: '/opt/wrenn/packages/cli/bin/wrenn.mjs',
  socketPath: '/var/lib/wrenn/agent.sock',
  apiDir: '/var/lib/wrenn/api',
  port: 443,
  agentEnvironment: { WRENN_CONFIG: '/etc/wrenn/other.json', WRENN_DRIVER: 'qemu' },
  apiEnvironment: { WRENN_API_CONFIG: '/etc/wrenn/other-api.json', E2B_DOMAIN: 'sandbox.example:3000' },
};
const hasProgram = (program: string): boolean => spawnSync(program, ['--version']).status === 0;

it.runIf(hasProgram('systemd-analyze'))('are what systemd understands, and keep the API small', () => {
  const root = mkdtempSync(join(tmpdir(), 'wrenn-units-'));
  try {
    const paths = unitFiles(settings)
      .filter(({ path }) => path.endsWith('.service'))
      .map(({ path, text }) => {
        const place = join(root, path.slice(path.lastIndexOf('/') + 1));
        writeFileSync(place, text);
        return place;
      });
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...paths], {
      encoding: 'utf8',
    });
    // Nothing of ours is complained about: a key that is unknown or a value that is wrong is told with the unit's name.
    const ours = `${stdout}${stderr}`.split('\n').filter((line) => /wrenn-(agent|api)\.service/.test(line));
    expect(ours).toEqual([]);
    expect(status).toBe(0);
  } finally {
    rmSync(root, { recursive: true });
  }
});

it.runIf(hasProgram('systemd-sysusers'))('name a user that can be made', () => {
  const root = mkdtempSync(join(tmpdir(), 'wrenn-users-'));
  try {
    const [users] = unitFiles(settings);
    const place = join(root, users?.path ?? '');
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, users?.text ?? '');
    const said = execFileSync('systemd-sysusers', ['--dry-run', `--root=${root}`, place], {
      encoding: 'utf8',
      stdio: 'pipe',
    });
    expect(said).not.toMatch(/invalid|ignor/i);
  } finally {
    rmSync(root, { recursive: true });
  }
});

it('let nothing in that means something to systemd', () => {
  for (const program of ['/opt/a b', '/opt/%n', '/opt/$HOME', '/opt/a"b', '/opt/a\nUser=root', 'relative'])
    expect(() => unitFiles({ ...settings, program })).toThrow(/cannot stand/);
});

it('have variables of paths, names and hosts, and of nothing that means something to systemd', () => {
  const [, agent, api] = unitFiles(settings).map(({ text }) => text.split('\n'));
  expect(agent).toContain('Environment=WRENN_DRIVER=qemu');
  expect(api).toContain('Environment=E2B_DOMAIN=sandbox.example:3000');
  for (const value of ['a b', '%n', '$HOME', 'a"b', "a'b", 'a\nUser=root', 'a\\b', ''])
    expect(() => unitFiles({ ...settings, agentEnvironment: { WRENN_DRIVER: value } })).toThrow(
      /cannot stand/,
    );
});

it('do not name to the API what it does not see', () => {
  for (const path of ['/tmp/agent.sock', '/var/tmp/x/agent.sock', '/tmp'])
    expect(() => unitFiles({ ...settings, socketPath: path })).toThrow(/a \/tmp of its own/);
  expect(() => unitFiles({ ...settings, socketPath: '/tmpfs/agent.sock' })).not.toThrow();
});

it('give the API a low port where it has one, and no capability else', () => {
  const api = (port: number): string => unitFiles({ ...settings, port }).at(-1)?.text ?? '';
  expect(api(443)).toContain('AmbientCapabilities=CAP_NET_BIND_SERVICE');
  expect(api(3000)).toMatch(/^CapabilityBoundingSet=$/m);
});
