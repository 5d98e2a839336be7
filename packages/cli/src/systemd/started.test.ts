import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { describe, expect, it } from 'vitest';
import { isListenedAt, tryToListen, untilServing } from './started.ts';

describe('a service that has been started', () => {
  const times = { deadlineMs: 5_000, pollMs: 5, settleMs: 50 };
  /** Which process systemd tells of, one look after the other; the last one stays. */
  const pids = (...seen: number[]) => {
    let looks = 0;
    return async () => seen[Math.min(looks++, seen.length - 1)] ?? 0;
  };

  it('serves once it answers and stays', async () => {
    let asked = 0;
    const startedAt = performance.now();
    await untilServing('x.service', async () => ++asked >= 3, { ...times, mainPid: pids(0, 7) });
    expect(asked).toBe(3);
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(50);
  });

  it('does not serve if it ends again and again, whoever answers', async () => {
    const mainPid = pids(7, 0, 8, 0, 9, 0, 10);
    await expect(untilServing('x.service', async () => true, { ...times, mainPid })).rejects.toMatchObject({
      code: 'agent_not_running',
      message: expect.stringMatching(/^x\.service has ended 3 times/),
      hint: expect.stringContaining('journalctl -u x.service'),
    });
  });

  it('may end once, as when another one was there a moment before', async () => {
    await untilServing('x.service', async () => true, { ...times, mainPid: pids(7, 7, 0, 0, 8) });
  });

  it('that does not answer is not waited for without end', async () => {
    const waiting = { ...times, deadlineMs: 100, mainPid: pids(7) };
    await expect(untilServing('x.service', async () => false, waiting)).rejects.toMatchObject({
      message: expect.stringContaining('did not answer within 0.1 s'),
    });
  });
});

it('an address that is taken is told from one that is free', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const taken = { host: '127.0.0.1', port };
  await expect(tryToListen(taken)).rejects.toMatchObject({ code: 'EADDRINUSE' });
  expect(await isListenedAt(taken)).toBe(true);
  expect(await isListenedAt({ host: '0.0.0.0', port })).toBe(true);
  await new Promise((resolve) => server.close(resolve));
  await tryToListen(taken);
  expect(await isListenedAt(taken)).toBe(false);
});
