/** What /init makes of a clone: an envd in namespaces of its own, so that this machine stays who it is. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { lstat, mkdir, readFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sendShortInit } from '../../packages/agent/src/envd-client/short-init.ts';
import { type OwnMachine, script, startOwnMachine } from './own-machine.ts';
import { startEnvd } from './start-envd.ts';

const base64 = (byte: number) => Buffer.alloc(64, byte).toString('base64');
const identity = {
  hostname: 'child',
  machineId: 'ab'.repeat(16),
  entropy: base64(1),
  nameservers: ['192.0.2.1', '192.0.2.2'],
};
const OWN_FILES = ['hostname', 'hosts', 'machine-id', 'resolv.conf'];
const keyNames = (etc: string) => readdirSync(join(etc, 'ssh')).sort();

/** This machine's own, which no test may change. */
const ofThisMachine = () => [
  hostname(),
  ...OWN_FILES.map((name) => (existsSync(`/etc/${name}`) ? readFileSync(`/etc/${name}`, 'utf8') : '')),
];

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it never came');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe.skipIf(process.getuid?.() !== 0)('the identity of a machine', () => {
  const before = ofThisMachine();
  let machine: OwnMachine;
  let files: () => Promise<string[]>;
  beforeEach(async () => {
    machine = await startOwnMachine();
    files = () => Promise.all(OWN_FILES.map((name) => readFile(join(machine.etc, name), 'utf8')));
  }, 60_000);
  afterEach(async () => {
    await machine?.stop();
    expect(ofThisMachine()).toEqual(before);
  });

  it('is there when the answer is', async () => {
    expect((await machine.envd.init({ identity })).status).toBe(204);
    expect(await files()).toEqual([
      'child\n',
      '127.0.0.1 localhost\n127.0.1.1 child\n10.0.0.1 db\n',
      `${'ab'.repeat(16)}\n`,
      'nameserver 192.0.2.1\nnameserver 192.0.2.2\n',
    ]);
    expect(await machine.sh('uname -n')).toBe('child\n');
    expect((await lstat(join(machine.etc, 'machine-id'))).mode & 0o7777).toBe(0o644);
    expect(readdirSync(machine.etc).filter((name) => name.includes('wrenn-new'))).toEqual([]);
    // D-Bus had no id of its own before.
    expect(readdirSync(machine.dbus)).toEqual([]);
  });

  it('changes by the fields that are given, and no others', async () => {
    const [name, hosts, , resolver] = await files();
    expect((await machine.envd.init({ identity: { machineId: 'cd'.repeat(16) } })).status).toBe(204);
    expect(await files()).toEqual([name, hosts, `${'cd'.repeat(16)}\n`, resolver]);
    expect((await machine.envd.init({ identity: { nameservers: [] } })).status).toBe(204);
    expect(await files()).toEqual([name, hosts, `${'cd'.repeat(16)}\n`, '']);
    expect((await machine.envd.init({ identity: {} })).status).toBe(204);
    expect((await machine.envd.init({ identity: { entropy: base64(2) } })).status).toBe(204);
  });

  it('is left alone by a request that repeats it, and changed by the next one', async () => {
    await machine.envd.init({ identity });
    const changed = ['mine\n', '127.0.1.1 mine\n', `${'ef'.repeat(16)}\n`, 'nameserver 192.0.2.9\n'];
    for (const [i, name] of OWN_FILES.entries()) await writeFile(join(machine.etc, name), changed[i] ?? '');
    expect((await machine.envd.init({ identity, envVars: { A: '1' } })).status).toBe(204);
    expect((await machine.envd.init({ identity: { ...identity, entropy: base64(3) } })).status).toBe(204);
    expect(await files()).toEqual(changed);
    expect((await machine.envd.init({ identity: { ...identity, hostname: 'other' } })).status).toBe(204);
    expect(await files()).toEqual(['other\n', '127.0.1.1 other\n', ...changed.slice(2)]);
  });

  it('takes the place of links and pipes without following them', async () => {
    const victim = join(machine.bin, 'victim');
    writeFileSync(victim, 'untouched');
    writeFileSync(join(machine.dbus, 'machine-id'), 'old\n');
    await machine.sh(
      `cd /etc; rm resolv.conf hosts machine-id; mkfifo hosts machine-id; ln -s ${victim} /etc/resolv.conf`,
    );
    symlinkSync(victim, join(machine.etc, 'hostname.wrenn-new'));
    expect((await machine.envd.init({ identity })).status).toBe(204);
    expect(readFileSync(victim, 'utf8')).toBe('untouched');
    expect((await files()).slice(0, 3)).toEqual([
      'child\n',
      '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 child\n',
      `${'ab'.repeat(16)}\n`,
    ]);
    expect(readFileSync(join(machine.dbus, 'machine-id'), 'utf8')).toBe(`${'ab'.repeat(16)}\n`);
  });

  it('is refused whole when a part of it is malformed', async () => {
    const parent = await files();
    for (const wrong of [
      { hostname: 'a.b' },
      { machineId: 'x' },
      { entropy: 'AAAA' },
      { nameservers: ['x'] },
    ]) {
      const response = await machine.envd.init({ identity: { ...identity, ...wrong }, envVars: { A: '1' } });
      expect([response.status, await response.json()]).toEqual([
        400,
        { code: 400, message: expect.stringMatching(/^identity\./) },
      ]);
    }
    expect(await files()).toEqual(parent);
    expect(await machine.sh('uname -n; echo "$A"')).toBe(`${hostname()}\n\n`);
  });

  it('is refused to who does not know the token', async () => {
    const parent = await files();
    await machine.envd.init({ accessToken: 'secret' });
    expect((await machine.envd.init({ identity })).status).toBe(401);
    expect(await files()).toEqual(parent);
  });

  it('comes from an older request only where that begins a new life', async () => {
    const later = '2030-01-01T00:00:00Z';
    const earlier = '2029-01-01T00:00:00Z';
    await machine.envd.init({ timestamp: later, accessToken: 'of the parent', envVars: { A: '1' } });
    const parent = await files();
    const knowing = { 'X-Access-Token': 'of the parent' };
    const asChild = { timestamp: earlier, accessToken: 'of the child', identity, envVars: { A: '2' } };
    const { entropy: _, ...rest } = identity;
    expect((await machine.envd.init({ timestamp: earlier, identity: rest }, knowing)).status).toBe(204);
    expect(await files()).toEqual(parent);
    // The host's clock was set back since the snapshot.
    expect((await machine.envd.init(asChild, knowing)).status).toBe(204);
    expect((await machine.envd.init({ ...asChild, envVars: { A: '3' } })).status).toBe(204);
    expect((await files())[0]).toBe('child\n');
    expect(await machine.sh('echo "$A"', { 'X-Access-Token': 'of the child' })).toBe('2\n');
    await machine.envd.init({ accessToken: 'of the child' });
  });

  it('can be asked for again where the machine did not let it', async () => {
    await machine.sh('rm /etc/machine-id; mkdir -p /etc/machine-id/x');
    await machine.envd.init({ timestamp: '2031-01-01T00:00:00Z' });
    const request = { identity, timestamp: '2030-01-01T00:00:00Z', envVars: { A: '1' } };
    const response = await machine.envd.init(request);
    expect([response.status, await response.json()]).toEqual([
      500,
      { code: 500, message: expect.stringContaining('EISDIR') },
    ]);
    expect(await machine.sh('echo "$A"')).toBe('\n');
    await machine.sh('rm -r /etc/machine-id');
    expect((await machine.envd.init(request)).status).toBe(204);
    expect(await machine.sh('echo "$A"; cat /etc/machine-id')).toBe(`1\n${'ab'.repeat(16)}\n`);
  });

  const refusals: string[] = [];
  /** What is not to be acknowledged is waited for in vain. */
  const IN_VAIN_MS = 2_000;
  const send = async (token: string, fields: object, timeoutMs = 10_000) =>
    (await sendShortInit({
      host: '127.0.0.1',
      port: machine.envd.port,
      token,
      body: JSON.stringify({ accessToken: 'of the child', replaceEnvs: true, ...fields }),
      timeoutMs,
      listenMs: 10_000,
      onRefused: (why) => refusals.push(why),
      signal: new AbortController().signal,
    })) !== undefined;
  const asChild = { 'X-Access-Token': 'of the child' };

  it('comes in the first datagram of a machine that has just booted, which is its own from then on', async () => {
    const answers = await Promise.all([
      send('of the child', { identity, envVars: { A: '1' } }),
      send('of another', { accessToken: 'of another', envVars: { A: '2' } }, IN_VAIN_MS),
    ]);
    expect(answers).toEqual([true, false]);
    expect((await fetch(`${machine.envd.url}/envs`)).status).toBe(401);
    expect(await machine.sh('echo "$A" $(uname -n)', asChild)).toBe('1 child\n');
    expect(await send('of another', { envVars: { A: '3' } }, IN_VAIN_MS)).toBe(false);
    expect(await machine.sh('echo "$A"', asChild)).toBe('1\n');
  });

  it('is refused behind the acknowledgement of that datagram where it is none', async () => {
    refusals.splice(0);
    expect(await send('of the child', { identity: { hostname: 'a.b' } })).toBe(true);
    await expect.poll(() => refusals).toEqual([expect.stringContaining('identity.hostname')]);
    expect((await fetch(`${machine.envd.url}/envs`)).status).toBe(500);
    expect((await machine.envd.init({ accessToken: 'of the child', identity })).status).toBe(204);
    expect(await machine.sh('uname -n', asChild)).toBe('child\n');
  });

  it('comes in a datagram too, before anything else is answered', async () => {
    refusals.splice(0);
    await machine.envd.init({ accessToken: 'of the parent' });
    expect(await send('of another', { identity }, IN_VAIN_MS)).toBe(false);
    expect((await files())[0]).toBe('parent\n');
    expect(await send('of the parent', { identity, envVars: { A: '1' } })).toBe(true);
    expect(await machine.sh('echo "$A" $(uname -n)', asChild)).toBe('1 child\n');
    expect((await files())[2]).toBe(`${'ab'.repeat(16)}\n`);

    await machine.sh('rm /etc/hosts; mkdir -p /etc/hosts/x', asChild);
    const renamed = { ...identity, hostname: 'renamed', entropy: base64(5) };
    expect(await send('of the child', { identity: renamed })).toBe(true);
    const refused = await fetch(`${machine.envd.url}/envs`, { headers: asChild });
    expect([refused.status, await refused.json()]).toEqual([
      500,
      { code: 500, message: expect.stringContaining('EISDIR') },
    ]);
    await expect.poll(() => refusals).toEqual([expect.stringContaining('EISDIR')]);
    rmSync(join(machine.etc, 'hosts'), { recursive: true });
    expect((await machine.envd.init({ accessToken: 'of the child', identity: renamed })).status).toBe(204);
    expect(await machine.sh('uname -n', asChild)).toBe('renamed\n');
  });

  it('brings new host keys where there are old ones, and none where there are none', async () => {
    await machine.envd.init({ identity });
    expect(keyNames(machine.etc)).toEqual([]);
    const old = ['ssh_host_ed25519_key', 'ssh_host_ed25519_key.pub', 'ssh_host_dsa_key'];
    for (const name of old) writeFileSync(join(machine.etc, 'ssh', name), 'of the parent');
    await machine.envd.init({ identity: { hostname: 'renamed', entropy: base64(4) } });
    expect(keyNames(machine.etc)).toEqual([...old].sort());

    // Keys are made once the answer has come, and not before.
    const go = join(machine.bin, 'go');
    await script(
      machine.bin,
      'ssh-keygen',
      `until [ -e ${go} ]; do sleep 0.05; done; exec /usr/bin/ssh-keygen "$@"`,
    );
    // What stands for sshd: a program of that name, which SIGHUP ends.
    copyFileSync('/bin/sleep', join(machine.bin, 'sshd'));
    chmodSync(join(machine.bin, 'sshd'), 0o755);
    const sshd = machine.sh('echo $$ >/run/sshd.pid; exec sshd 30');
    await until(() => /^\d+\n$/.test(readOr(`/proc/${machine.envd.pid}/root/run/sshd.pid`)));
    expect((await machine.envd.init({ identity: { machineId: 'cd'.repeat(16) } })).status).toBe(204);
    expect(keyNames(machine.etc)).toEqual([]);
    writeFileSync(go, '');
    await until(() => keyNames(machine.etc).length >= 6);
    await sshd;
    for (const name of keyNames(machine.etc)) {
      const key = readFileSync(join(machine.etc, 'ssh', name), 'utf8');
      expect([name, key]).toEqual([name, expect.stringMatching(/PRIVATE KEY|^(ssh|ecdsa)-/)]);
    }
    const made = readFileSync(join(machine.etc, 'ssh/ssh_host_ed25519_key'), 'utf8');
    await machine.envd.init({ identity: { machineId: 'cd'.repeat(16) } });
    expect(readFileSync(join(machine.etc, 'ssh/ssh_host_ed25519_key'), 'utf8')).toBe(made);
  });

  it('stops what the parent had begun to make', async () => {
    // A slow one, that says when it has begun and when it has ended.
    const [log, go] = [join(machine.bin, 'log'), join(machine.bin, 'go')];
    await script(
      machine.bin,
      'ssh-keygen',
      `echo begun >>${log}; until [ -e ${go} ]; do sleep 0.05; done; echo made >>/etc/ssh/ssh_host_rsa_key`,
    );
    await mkdir(join(machine.etc, 'ssh'), { recursive: true });
    writeFileSync(join(machine.etc, 'ssh/ssh_host_rsa_key'), 'of the parent');
    await machine.envd.init({ identity });
    await until(() => readOr(log) === 'begun\n');
    expect(keyNames(machine.etc)).toEqual([]);
    await machine.envd.init({ identity: { machineId: 'cd'.repeat(16) } });
    await until(() => readOr(log) === 'begun\nbegun\n');
    writeFileSync(go, '');
    await until(() => readOr(join(machine.etc, 'ssh/ssh_host_rsa_key')) !== '');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(readOr(join(machine.etc, 'ssh/ssh_host_rsa_key'))).toBe('made\n');
  });
});

function readOr(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

describe.skipIf(process.getuid?.() !== 0)('an envd that may not reseed the kernel', () => {
  it('says so, and changes nothing', async () => {
    const machine = await startOwnMachine({ through: ['setpriv', '--bounding-set=-sys_admin', '--'] });
    try {
      const response = await machine.envd.init({ identity, envVars: { A: '1' } });
      expect([response.status, await response.json()]).toEqual([
        500,
        { code: 500, message: expect.stringContaining('EPERM') },
      ]);
      expect(readFileSync(join(machine.etc, 'hostname'), 'utf8')).toBe('parent\n');
      expect(await machine.sh('echo "$A"')).toBe('\n');
    } finally {
      await machine.stop();
    }
  });
});

it('takes no identity where the machine is not its own', async () => {
  const envd = await startEnvd();
  try {
    const response = await envd.init({ identity, envVars: { A: '1' } });
    expect([response.status, await response.json()]).toEqual([
      501,
      { code: 501, message: expect.any(String) },
    ]);
    expect(await (await fetch(`${envd.url}/envs`)).json()).toEqual({});
  } finally {
    await envd.stop();
  }
});
