/** What a hostile or merely slow peer can cost: every figure here is a bound on envd's memory. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { envelope, finish, frames, stream, unary } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

const START = 'process.Process/Start';
const MIB = 1024 * 1024;
/** Idle it holds about 55 MiB resident, most of it the executable's pages. */
const RSS_MAX_BYTES = 160 * MIB;

let envd: Envd;
beforeAll(async () => {
  envd = await startEnvd();
}, 60_000);
afterAll(() => envd.stop());

const shell = (script: string) => ({ process: { cmd: '/bin/sh', args: ['-c', script] } });
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

it('passes 100 MB to a reader that pauses, in bounded memory', async () => {
  const start = { ...shell('head -c 100000000 /dev/zero'), stdin: false };
  const response = await stream(envd.url, START, start);
  let bytes = 0;
  let messages = 0;
  for await (const { payload, flags } of frames(response.body)) {
    if ((flags & 2) !== 0) break;
    if (messages++ % 300 === 0) await sleep(100);
    const { event } = JSON.parse(new TextDecoder().decode(payload));
    bytes += Buffer.from(event.data?.stdout ?? '', 'base64').length;
  }
  expect(bytes).toBe(100_000_000);
  expect(envd.peakRssBytes()).toBeLessThan(RSS_MAX_BYTES);
}, 60_000);

it('throttles a process whose reader has stopped, by pipe and by terminal', async () => {
  for (const more of [{ stdin: false }, { pty: { size: { cols: 80, rows: 24 } } }]) {
    const leave = new AbortController();
    const start = {
      ...shell('while :; do echo 0123456789012345678901234567890123456789; done'),
      tag: 'flood',
      ...more,
    };
    const response = await stream(envd.url, START, start, { signal: leave.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    await sleep(2000);
    expect(envd.rssBytes()).toBeLessThan(RSS_MAX_BYTES);
    const ticksSince = async (before: number) => (await cpuTicks('flood')) - before;
    const ticksInAWhile = async () => {
      const before = await cpuTicks('flood');
      await sleep(700);
      return ticksSince(before);
    };
    // On a busy machine it takes its time until all is full that there is on the way.
    await expect.poll(ticksInAWhile, { timeout: 15_000 }).toBeLessThanOrEqual(2);
    const before = await cpuTicks('flood');
    // Having left, the reader throttles no more.
    leave.abort();
    await expect.poll(() => ticksSince(before)).toBeGreaterThan(10);
    expect(envd.rssBytes()).toBeLessThan(RSS_MAX_BYTES);
    await unary(envd.url, 'process.Process/SendSignal', {
      process: { tag: 'flood' },
      signal: 'SIGNAL_SIGKILL',
    });
    await expect.poll(() => processes('flood')).toEqual([]);
  }
}, 60_000);

it('takes 1 GiB of input no faster than the process reads it', async () => {
  // It reads once the file is there.
  const go = join(mkdtempSync(join(tmpdir(), 'wrenn-limits-')), 'go');
  onTestFinished(() => rmSync(dirname(go), { recursive: true }));
  const started = await stream(envd.url, START, {
    ...shell(`until [ -e ${go} ]; do sleep 0.1; done; head -c 50000000 | wc -c`),
    tag: 'sink',
  });
  const finished = finish(started);
  const socket = connect({ host: '127.0.0.1', port: envd.port });
  socket.on('error', () => {}); // envd hangs up once the process is gone
  socket.write(
    'POST /process.Process/StreamInput HTTP/1.1\r\nHost: envd\r\nTransfer-Encoding: chunked\r\n' +
      'Content-Type: application/connect+proto\r\n\r\n',
  );
  const chunk = (bytes: Uint8Array) => {
    socket.write(`${bytes.length.toString(16)}\r\n`);
    socket.write(bytes);
    return socket.write('\r\n');
  };
  // StreamInputRequest{start{process{tag}}}, then {data{input{stdin}}} of 1 MiB each, encoded by hand.
  chunk(envelope(message(1, message(1, message(2, Buffer.from('sink'))))));
  const piece = envelope(message(2, message(2, message(1, Buffer.alloc(MIB, 'x')))));
  let sent = 0;
  const startedAt = Date.now();
  while (sent < 1024 && !socket.destroyed && Date.now() - startedAt < 3000) {
    sent += 1;
    if (!chunk(piece))
      await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), sleep(3000)]);
  }
  expect(sent).toBeLessThan(64);
  expect(envd.peakRssBytes()).toBeLessThan(RSS_MAX_BYTES);
  writeFileSync(go, '');
  while (sent < 1024 && !socket.destroyed && Date.now() - startedAt < 20_000) {
    sent += 1;
    if (!chunk(piece))
      await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), sleep(500)]);
    if ((await processes('sink')).length === 0) break;
  }
  expect(await finished).toMatchObject({ stdout: '50000000\n' });
  expect(envd.peakRssBytes()).toBeLessThan(RSS_MAX_BYTES);
  socket.destroy();
}, 60_000);

it('refuses a message of 1 GiB before it has read it', async () => {
  const header = new Uint8Array(5);
  new DataView(header.buffer).setUint32(1, 2 ** 30);
  const response = await fetch(`${envd.url}/${START}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/connect+proto' },
    body: header,
  });
  expect((await finish(response)).error).toMatchObject({ code: 'resource_exhausted' });

  const unaryResponse = await fetch(`${envd.url}/process.Process/SendInput`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: new Uint8Array(40 * MIB),
  });
  expect(unaryResponse.status).toBe(429);
  expect(envd.peakRssBytes()).toBeLessThan(RSS_MAX_BYTES);
}, 30_000);

/** A length-delimited protobuf field. */
function message(field: number, content: Uint8Array): Buffer {
  const length: number[] = [];
  let rest = content.length;
  for (; rest > 127; rest >>>= 7) length.push((rest & 127) | 128);
  return Buffer.concat([Buffer.from([(field << 3) | 2, ...length, rest]), content]);
}

async function processes(tag: string): Promise<number[]> {
  const { body } = await unary(envd.url, 'process.Process/List', {});
  const list = (body.processes ?? []) as { pid: number; tag?: string }[];
  return list.filter((process) => process.tag === tag).map(({ pid }) => pid);
}

async function cpuTicks(tag: string): Promise<number> {
  const [pid] = await processes(tag);
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}
