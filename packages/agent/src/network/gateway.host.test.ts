/** Names that a guest may reach: with real packets, through the gateway as a process, to servers that tell what came. */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseIpv4, parseIpv4Range, processesOfUser, rangeAround } from '@wrenn/host';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createEgressGateway } from './gateway/supervisor.ts';
import { createNetwork, deniedToGuests } from './network.ts';
import type { NamedEgress, Network, NetworkSlot } from './slot.ts';
import { bundleGateway, type GatewayProgram } from './testing/gateway-program.ts';
import { type Ask, ask, type Internet, startInternet } from './testing/internet.ts';
import { createLab, HOST_LAN, HOST_PUBLIC, type Lab, WORLD } from './testing/lab.ts';
import type { Probe } from './testing/traffic.ts';

const OWNER = { uid: 54_321, gid: 54_321 };
const GATEWAY_UID = 1_969_999_998;
const RESOLVER = WORLD.privateNameserver;
const EVERYWHERE = parseIpv4Range('0.0.0.0/0');
const HEAD_MS = 3000;
const MAX_CONNECTIONS = 12;
const signal = new AbortController().signal;

let lab: Lab;
let program: GatewayProgram;
let internet: Internet;
let network: Network;
let slot: NetworkSlot;
let guest: string;
let other: NetworkSlot;
const warnings: string[] = [];

const named = (names: string[], more: Partial<NamedEgress> = {}) => ({
  allowed: [],
  refused: [EVERYWHERE],
  named: { names, ...more },
});
const get = (host: string, path = '/', more = '') => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`;
/** Of those who ask: that they have been heard. */
const seenSince = (before: number, ...lines: string[]) =>
  expect.poll(() => internet.seen.slice(before)).toEqual(expect.arrayContaining(lines));
const asked = (host: string, more: Partial<Ask> = {}) =>
  ask(guest, { send: [get(host, '/', 'Connection: close\r\n')], ...more });

async function gatewayPid(): Promise<number> {
  const [found, ...others] = await processesOfUser(GATEWAY_UID);
  expect(others).toEqual([]);
  return found?.pid ?? 0;
}

beforeAll(async () => {
  [lab, program] = await Promise.all([createLab(), bundleGateway()]);
  const config = { ...lab.config, nameservers: [RESOLVER], gatewayUid: GATEWAY_UID };
  const gateway = createEgressGateway({
    settings: {
      uid: GATEWAY_UID,
      denied: deniedToGuests(config),
      resolvers: [RESOLVER],
      connectMs: 4000,
      limits: { maxConnections: MAX_CONNECTIONS, headMs: HEAD_MS, maxHeadBytes: 16_384, idleMs: 60_000 },
    },
    command: program.command,
    wrapper: ['nsenter', `--net=/run/netns/${lab.hostNetns}`],
    onWarning: (message) => warnings.push(message),
  });
  network = createNetwork(config, lab.networkHost(), gateway);
  await network.start(new Set(), signal);
  internet = await startInternet(lab.worldNetns, RESOLVER, {
    'example.com': [WORLD.internet],
    'www.example.org': [WORLD.internet],
    'evil.example': [WORLD.internet],
    'private.allowed.net': [WORLD.privateTen],
    'metadata.allowed.net': [WORLD.metadata],
    'self.allowed.net': ['127.0.0.1'],
    'host.allowed.net': [HOST_PUBLIC],
    'lan.allowed.net': [HOST_LAN],
    'guest.allowed.net': ['10.117.0.3'],
    'mixed.allowed.net': [WORLD.privateTen, WORLD.internet],
    'dead.allowed.net': ['198.51.100.77'],
  });
  slot = await network.setUp(network.reserve(), { ...OWNER, egress: named(['example.com']) }, signal);
  other = await network.setUp(network.reserve(), OWNER, signal);
  guest = await lab.plugGuest(slot);
  await lab.listen(lab.hostNetns, 80);
  await lab.listen(await lab.plugGuest(other), 80);
});

afterAll(async () => {
  await network?.release(slot.index);
  await network?.release(other.index);
  await network?.stop();
  await internet?.close();
  await program?.remove();
  await lab?.close();
});

const set = (names: string[], more: Partial<NamedEgress> = {}) =>
  network.setEgress(slot.index, named(names, more), signal);

it('leaves alone what the machine itself sends, resets of no process among it', async () => {
  const [loopback, lan] = await lab.probe(lab.hostNetns, [
    { kind: 'tcp', address: '127.0.0.1', port: 9, timeoutMs: 8000 },
    { kind: 'tcp', address: HOST_LAN, port: 9, timeoutMs: 8000 },
  ]);
  expect([loopback, lan]).toEqual([{ failed: 'ECONNREFUSED' }, { failed: 'ECONNREFUSED' }]);
});

describe('over plain HTTP a guest', () => {
  beforeEach(() => set(['example.com', '*.example.org']));

  it('reaches what is named, wherever it says that it is', async () => {
    expect((await asked('example.com')).got).toMatch(/^HTTP\/1.1 200 OK[\s\S]*GET example.com 0$/);
    expect((await asked('WWW.Example.ORG:80', { address: '192.0.2.77' })).got).toContain('200 OK');
  });

  it('is told in one line what it may not', async () => {
    const before = internet.seen.length;
    const { got, how } = await asked('evil.example');
    expect(got).toMatch(/^HTTP\/1.1 403 [\s\S]*\r\n\r\nThis sandbox may not reach evil.example.\n$/);
    expect(how).toBe('end');
    for (const host of ['example.org', WORLD.internet, 'example.com.evil.example']) {
      expect((await asked(host)).got, host).toMatch(/^HTTP\/1.1 40[03] /);
    }
    expect(internet.seen.slice(before)).toEqual([]);
  });

  it('is judged for each request of a connection, sent ahead or later', async () => {
    const before = internet.seen.length;
    const mixed = [
      get('example.com', '/1'),
      get('evil.example', '/2'),
      get('example.com', '/3', 'Connection: close\r\n'),
    ];
    for (const send of [mixed, [mixed.join('')]]) {
      const { got } = await ask(guest, { send });
      expect(got.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 403', 'HTTP/1.1 200']);
    }
    expect(internet.seen.slice(before).filter((line) => line.includes('evil'))).toEqual([]);
  });

  it('cannot hide a request in another one', async () => {
    const hidden = get('evil.example', '/hidden');
    const before = internet.seen.length;
    const tries = [
      `POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\nContent-Length: 99\r\n\r\n${hidden}`,
      `GET / HTTP/1.1\r\nHost: example.com\r\nHost: evil.example\r\n\r\n`,
      `GET http://evil.example/ HTTP/1.1\r\nHost: example.com\r\n\r\n`,
      `CONNECT evil.example:80 HTTP/1.1\r\nHost: example.com\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n${hidden}`,
      `GET / HTTP/1.1\r\nHost : evil.example\r\n\r\n`,
      `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
    ];
    for (const send of tries) {
      const { got } = await ask(guest, { send: [send], forMs: 1500 });
      expect(got, send).not.toContain('evil');
    }
    expect(internet.seen.slice(before).filter((line) => /evil|hidden/.test(line))).toEqual([]);
  });

  it('sends and gets bodies, and speaks over websockets', async () => {
    const body = ask(guest, {
      send: [
        'POST / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n',
        200_000,
      ],
    });
    expect((await body).got).toContain('POST example.com 200000');
    expect(
      (await ask(guest, { send: [get('example.com', '/big', 'Connection: close\r\n')] })).size,
    ).toBeGreaterThan(3e6);
    const upgrade = get('example.com', '/ws', 'Connection: Upgrade\r\nUpgrade: websocket\r\n');
    const socket = await ask(guest, { send: [upgrade, 'back and forth'], forMs: 4000 });
    expect(socket).toMatchObject({
      how: 'open',
      got: expect.stringMatching(/^HTTP\/1.1 101 [\s\S]*back and forth$/),
    });
  });

  it('does not reach a host without an address, or one that does not answer', async () => {
    await set(['nowhere.example', '*.allowed.net']);
    expect((await asked('nowhere.example')).got).toMatch(/^HTTP\/1.1 502 [\s\S]*has no address/);
    expect((await asked('dead.allowed.net', { forMs: 8000 })).got).toMatch(/^HTTP\/1.1 502 /);
  });
});

describe('over TLS a guest', () => {
  beforeEach(() => set(['example.com', '*.example.org']));

  it('reaches what is named', async () => {
    const heard = await ask(guest, { servername: 'example.com', send: ['and back'], forMs: 4000 });
    expect(heard).toMatchObject({ got: 'helloand back', how: 'open' });
    expect((await ask(guest, { servername: 'www.example.org', send: [], bytes: 5 })).got).toBe('hello');
  });

  it('is reset when it asks for something else, hides it, or does not speak TLS', async () => {
    const before = internet.seen.length;
    for (const servername of ['evil.example', 'example.org', '']) {
      expect(await ask(guest, { servername, send: [] }), servername).toMatchObject({
        how: 'ECONNRESET',
        size: 0,
      });
    }
    const plain = await ask(guest, { port: 443, send: [get('example.com')] });
    expect(plain).toMatchObject({ how: 'ECONNRESET', size: 0 });
    expect(internet.seen.slice(before)).toEqual([]);
  });

  it('moves many bytes, and no more of them wait than buffers hold', async () => {
    const heard = await ask(guest, {
      servername: 'example.com',
      send: [2_000_000],
      bytes: 2_000_005,
      forMs: 10_000,
    });
    expect(heard).toMatchObject({ how: 'enough', size: 2_000_005 });
  });
});

describe('with names, a guest still', () => {
  const tcp = (address: string, port: number): Probe => ({ kind: 'tcp', address, port });
  const udp = (address: string, port: number): Probe => ({ kind: 'udp', address, port });

  it('reaches nothing else: no other port, no UDP, of a name server port 53 alone', async () => {
    await lab.listen(lab.worldNetns, 7000);
    await set(['example.com']);
    const results = await lab.probe(guest, [
      ...[tcp, udp].map((kind) => kind(WORLD.internet, 7000)),
      ...[tcp, udp].map((kind) => kind(RESOLVER, 7000)),
      udp(WORLD.internet, 443),
      tcp('169.254.0.22', 80),
    ]);
    expect(results.every((result) => 'failed' in result)).toBe(true);
    const before = internet.seen.length;
    const query = Buffer.from('000101000001000000000000076578616d706c6503636f6d0000010001', 'hex').toString(
      'latin1',
    );
    const script = `const s=require('node:dgram').createSocket('udp4');s.on('message',()=>process.exit(0));s.send(Buffer.from(${JSON.stringify(query)},'latin1'),53,'${RESOLVER}');setTimeout(()=>process.exit(1),8000)`;
    await lab.run('nsenter', [`--net=/run/netns/${guest}`, process.execPath, '-e', script], {
      timeoutMs: 15_000,
    });
    expect(internet.seen.slice(before)).toHaveLength(1);
  });

  it('reaches addresses that are allowed, past the gateway', async () => {
    const allowed = [rangeAround(parseIpv4(WORLD.internet), 32)];
    await network.setEgress(slot.index, { ...named(['example.com']), allowed }, signal);
    expect((await asked('evil.example')).got).toContain('200 OK');
    await set(['example.com']);
    expect((await asked('evil.example')).got).toContain('403');
  });

  it('is led into no private network, and not to the host or to another guest', async () => {
    await set(['*.allowed.net']);
    for (const name of ['private', 'metadata', 'self', 'host', 'lan', 'guest']) {
      const heard = await asked(`${name}.allowed.net`);
      expect(heard.got, name).toMatch(/^HTTP\/1.1 403 [\s\S]*is in a network that sandboxes do not reach/);
      expect(await ask(guest, { servername: `${name}.allowed.net`, send: [] })).toMatchObject({
        how: 'ECONNRESET',
      });
    }
    expect((await asked('mixed.allowed.net')).got).toContain('200 OK');
  });
});

describe('other rules', () => {
  it('end connections that they forbid, and no others', async () => {
    await set(['example.com', 'www.example.org']);
    const before = internet.seen.length;
    const running = [
      ask(guest, { send: [get('example.com', '/endless')], forMs: 6000 }),
      ask(guest, { servername: 'example.com', send: [], forMs: 6000 }),
      ask(guest, { send: [get('www.example.org', '/endless')], forMs: 6000 }),
      ask(guest, { servername: 'www.example.org', send: [], forMs: 6000 }),
    ];
    const endless = ['http example.com /endless', 'http www.example.org /endless'];
    await seenSince(before, ...endless, 'tls example.com', 'tls www.example.org');
    await set(['www.example.org']);
    const ends = (await Promise.all(running)).map(({ how }) => how);
    expect(ends).toEqual(['ECONNRESET', 'ECONNRESET', 'open', 'open']);
    expect((await asked('example.com')).got).toContain('403');
  });

  it('without names close the door', async () => {
    await set(['example.com']);
    const before = internet.seen.length;
    const running = ask(guest, { servername: 'example.com', send: [], forMs: 6000 });
    await seenSince(before, 'tls example.com');
    await network.setEgress(slot.index, { allowed: [], refused: [EVERYWHERE] }, signal);
    expect((await running).how).toBe('ECONNRESET');
    expect((await asked('example.com')).how).toBe('EHOSTUNREACH');
    await network.setEgress(slot.index, { allowed: [], refused: [] }, signal);
    expect((await asked('evil.example')).got).toContain('200 OK');
    await set(['example.com']);
    expect((await asked('evil.example')).got).toContain('403');
  });
});

describe('the gateway', () => {
  it('has no privileges, and a user that the host keeps away from itself and from private networks', async () => {
    const status = await readFile(`/proc/${await gatewayPid()}/status`, 'utf8');
    expect(status).toMatch(new RegExp(`^Uid:\\t${GATEWAY_UID}\\t${GATEWAY_UID}\\t`, 'm'));
    expect(status).toMatch(/^Groups:\s*$/m);
    for (const name of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'])
      expect(status).toMatch(new RegExp(`^${name}:\\t0+$`, 'm'));
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);

    await lab.listen(lab.worldNetns, 7001);
    await lab.listen(lab.hostNetns, 7001);
    const script = `
      const net = require('node:net');
      const one = (host) => new Promise((resolve) => {
        const s = net.connect({ host, port: 7001 });
        s.on('connect', () => resolve(host)).on('error', () => resolve('-'));
        setTimeout(() => resolve('-'), 3000);
      });
      Promise.all(process.argv.slice(1).map(one)).then((r) => { console.log(r.join(' ')); process.exit(0); });`;
    const { stdout } = await lab.run(
      'setpriv',
      [
        ...[
          `--reuid=${GATEWAY_UID}`,
          `--regid=${GATEWAY_UID}`,
          '--clear-groups',
          '--',
          process.execPath,
          '-e',
          script,
        ],
        ...[
          WORLD.internet,
          WORLD.privateTen,
          WORLD.metadata,
          HOST_PUBLIC,
          HOST_LAN,
          '127.0.0.1',
          slot.address,
        ],
      ],
      { timeoutMs: 15_000 },
    );
    expect(stdout.trim()).toBe(`${WORLD.internet} - - - - - -`);
  });

  it('waits for nobody who does not say whom he wants, and has no more of them than it may', async () => {
    await set(['example.com']);
    const slow = [
      ask(guest, { port: 443, send: ['\x16\x03'], forMs: 12_000 }),
      ask(guest, { send: ['GET / HTTP/1.1\r\n'], forMs: 12_000 }),
    ];
    for (const { how, ms, got } of await Promise.all(slow)) {
      expect(how === 'ECONNRESET' || got.includes('408') || how === 'end', `${how} ${got}`).toBe(true);
      expect(ms).toBeLessThan(HEAD_MS + 6000);
    }
    const script = `
      const tls = Array.from({ length: ${MAX_CONNECTIONS + 5} }, () => require('node:net').connect(443, '203.0.113.10'));
      let [broken, quiet] = [0];
      const tell = () => { console.log(broken); process.exit(0); };
      for (const s of tls) s.on('error', () => {
        broken += 1;
        clearTimeout(quiet);
        if (broken >= 5) quiet = setTimeout(tell, 300);
      });
      setTimeout(tell, 8000);`;
    const words = [`--net=/run/netns/${guest}`, process.execPath, '-e', script];
    const { stdout } = await lab.run('nsenter', words, { timeoutMs: 20_000 });
    expect(Number(stdout)).toBe(5);
  });

  it('is not called more often than it can hear', async () => {
    await set(['example.com']);
    const script = `
      let [open, refused] = [0, 0];
      for (let n = 0; n < 600; n += 1) {
        const s = require('node:net').connect(443, '203.0.113.10', () => (open += 1));
        s.on('error', () => (refused += 1));
      }
      const startedAt = performance.now();
      setInterval(() => {
        const ms = performance.now() - startedAt;
        const isEnough = ms >= 900 && open >= ${MAX_CONNECTIONS} && refused > 150;
        if (!isEnough && ms < 5000) return;
        console.log(open, refused);
        process.exit(0);
      }, 50);`;
    const words = [`--net=/run/netns/${guest}`, process.execPath, '-e', script];
    const { stdout } = await lab.run('nsenter', words, { timeoutMs: 20_000 });
    // One that the gateway has refused may never have seemed open.
    const [open = 0, refused = 0] = stdout.trim().split(' ').map(Number);
    expect(open).toBeGreaterThanOrEqual(MAX_CONNECTIONS);
    expect(refused).toBeGreaterThan(150);
    expect(refused).toBeLessThan(500);
    // What was dropped is tried again, and later there is room again.
    await sleep(3000);
    expect((await asked('example.com')).got).toContain('200 OK');
  });

  it("holds what is sent to the sandbox's rate", async () => {
    const size = 600_000;
    const send = [
      `POST / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\nContent-Length: ${size}\r\n\r\n`,
      size,
    ];
    await set(['example.com']);
    // A machine that stands still for a moment is no rate.
    let freeMs = Infinity;
    for (let left = 3; left > 0 && freeMs >= 1500; left -= 1) {
      freeMs = Math.min(freeMs, (await ask(guest, { send })).ms);
    }
    expect(freeMs).toBeLessThan(1500);
    await set(['example.com'], { transmitBytesPerSecond: 200_000 });
    const limited = await ask(guest, { send, forMs: 15_000 });
    expect(limited.got).toContain(`POST example.com ${size}`);
    expect(limited.ms).toBeGreaterThan(2000);
    expect(limited.ms).toBeLessThan(9000);
  });

  it('is started again when it dies, and nothing is open in the meantime', async () => {
    await set(['example.com']);
    const before = internet.seen.length;
    const running = ask(guest, { servername: 'example.com', send: [], forMs: 6000 });
    await seenSince(before, 'tls example.com');
    const pid = await gatewayPid();
    process.kill(pid, 'SIGKILL');
    expect((await running).how).not.toBe('open');
    let answer = await asked('example.com');
    for (let attempt = 0; attempt < 40 && !answer.got.includes('200 OK'); attempt += 1) {
      // Refused, or cut where the one that dies had just taken it.
      expect([answer.got, answer.how]).toEqual([
        '',
        expect.stringMatching(/^(ECONNREFUSED|ECONNRESET|end)$/),
      ]);
      await sleep(100);
      answer = await asked('example.com');
    }
    expect(answer.got).toContain('200 OK');
    expect((await asked('evil.example')).got).toContain('403');
    expect(await gatewayPid()).not.toBe(pid);
    expect(warnings).toEqual(['the egress gateway ended']);
  });

  it('lets go of a sandbox that is gone', async () => {
    const sockets = async () => (await readdir(`/proc/${await gatewayPid()}/fd`)).length;
    const before = await sockets();
    const third = await network.setUp(
      network.reserve(),
      { ...OWNER, egress: named(['example.com']) },
      signal,
    );
    const netns = await lab.plugGuest(third);
    expect((await ask(netns, { send: [get('example.com', '/', 'Connection: close\r\n')] })).got).toContain(
      '200 OK',
    );
    const seenBefore = internet.seen.length;
    const running = ask(netns, { servername: 'example.com', send: [], forMs: 6000 });
    await seenSince(seenBefore, 'tls example.com');
    expect(await sockets()).toBeGreaterThan(before);
    await network.release(third.index);
    await expect.poll(sockets).toBeLessThanOrEqual(before);
    await running;
  });
});
