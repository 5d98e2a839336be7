/** The gateway itself, as a process: what it may do, its limits, guests that wear it out, and its end. */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { callInSilence, callOften, reachedByUser } from './testing/gateway-clients.ts';
import {
  GATEWAY_UID,
  get,
  HEAD_MS,
  MAX_CONNECTIONS,
  named,
  OWNER,
  useGatewayScene,
} from './testing/gateway-scene.ts';
import { ask as askFrom } from './testing/internet.ts';
import { HOST_LAN, HOST_PUBLIC, WORLD } from './testing/lab.ts';

const { scene, ask, asked, gatewayPid, seenSince, set } = useGatewayScene();
const signal = new AbortController().signal;

it('leaves alone what the machine itself sends, resets of no process among it', async () => {
  const [loopback, lan] = await scene.lab.probe(scene.lab.hostNetns, [
    { kind: 'tcp', address: '127.0.0.1', port: 9, timeoutMs: 8000 },
    { kind: 'tcp', address: HOST_LAN, port: 9, timeoutMs: 8000 },
  ]);
  expect([loopback, lan]).toEqual([{ failed: 'ECONNREFUSED' }, { failed: 'ECONNREFUSED' }]);
});

describe('the gateway', () => {
  it('has no privileges, and a user that the host keeps away from itself and from private networks', async () => {
    const status = await readFile(`/proc/${await gatewayPid()}/status`, 'utf8');
    expect(status).toMatch(new RegExp(`^Uid:\\t${GATEWAY_UID}\\t${GATEWAY_UID}\\t`, 'm'));
    expect(status).toMatch(/^Groups:\s*$/m);
    for (const name of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'])
      expect(status).toMatch(new RegExp(`^${name}:\\t0+$`, 'm'));
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);

    await scene.lab.listen(scene.lab.worldNetns, 7001);
    await scene.lab.listen(scene.lab.hostNetns, 7001);
    const addresses = [
      WORLD.internet,
      ...[WORLD.privateTen, WORLD.metadata, HOST_PUBLIC, HOST_LAN, '127.0.0.1', scene.slot.address],
    ];
    const reached = await reachedByUser(scene.lab.hostNetns, GATEWAY_UID, { addresses, port: 7001 });
    expect(reached).toEqual([WORLD.internet]);
  });

  it('waits for nobody who does not say whom he wants, and has no more of them than it may', async () => {
    await set(['example.com']);
    const slow = [
      ask({ port: 443, send: ['\x16\x03'], forMs: 12_000 }),
      ask({ send: ['GET / HTTP/1.1\r\n'], forMs: 12_000 }),
    ];
    for (const { how, ms, got } of await Promise.all(slow)) {
      expect(how === 'ECONNRESET' || got.includes('408') || how === 'end', `${how} ${got}`).toBe(true);
      expect(ms).toBeLessThan(HEAD_MS + 6000);
    }
    const surplus = 5;
    expect(await callInSilence(scene.guest, { calls: MAX_CONNECTIONS + surplus, surplus })).toBe(surplus);
  });

  it('is not called more often than it can hear', async () => {
    await set(['example.com']);
    const enough = { open: MAX_CONNECTIONS, refused: 150 };
    const { open, refused } = await callOften(scene.guest, 600, enough);
    // One that the gateway has refused may never have seemed open.
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
      freeMs = Math.min(freeMs, (await ask({ send })).ms);
    }
    expect(freeMs).toBeLessThan(1500);
    await set(['example.com'], { transmitBytesPerSecond: 200_000 });
    const limited = await ask({ send, forMs: 15_000 });
    expect(limited.got).toContain(`POST example.com ${size}`);
    expect(limited.ms).toBeGreaterThan(2000);
    expect(limited.ms).toBeLessThan(9000);
  });

  it('is started again when it dies, and nothing is open in the meantime', async () => {
    await set(['example.com']);
    const before = scene.internet.seen.length;
    const running = ask({ servername: 'example.com', send: [], forMs: 6000 });
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
    expect(scene.warnings).toEqual(['the egress gateway ended']);
  });

  it('lets go of a sandbox that is gone', async () => {
    const sockets = async () => (await readdir(`/proc/${await gatewayPid()}/fd`)).length;
    const before = await sockets();
    const third = await scene.network.setUp(
      scene.network.reserve(),
      { ...OWNER, egress: named(['example.com']) },
      signal,
    );
    const netns = await scene.lab.plugGuest(third);
    expect(
      (await askFrom(netns, { send: [get('example.com', '/', 'Connection: close\r\n')] })).got,
    ).toContain('200 OK');
    const seenBefore = scene.internet.seen.length;
    const running = askFrom(netns, { servername: 'example.com', send: [], forMs: 6000 });
    await seenSince(seenBefore, 'tls example.com');
    expect(await sockets()).toBeGreaterThan(before);
    await scene.network.release(third.index);
    await expect.poll(sockets).toBeLessThanOrEqual(before);
    await running;
  });
});
