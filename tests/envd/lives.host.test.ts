/** What is let go of when a machine goes on as a clone or after a sleep: those it was connected with never say that they left. */
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { envelope, finish, frames, stream, unary } from './connect.ts';
import { type OwnMachine, startOwnMachine } from './own-machine.ts';

const OUTSIDE = '127.0.0.2';
const MIB = 1024 * 1024;
const CONNECT = 'process.Process/Connect';
const FLOOD = { process: { tag: 'flood' } };

describe.skipIf(process.getuid?.() !== 0)('a life that begins', () => {
  let machine: OwnMachine;
  let lives = 0;
  const callers: Socket[] = [];
  beforeEach(async () => {
    machine = await startOwnMachine({ envdArgs: ['--expose-host', OUTSIDE] });
    await beginLife();
  }, 60_000);
  afterEach(async () => {
    for (const caller of callers.splice(0)) caller.destroy();
    await machine?.stop();
  });

  const init = async (entropy: string) =>
    expect((await machine.envd.init({ identity: { entropy } })).status).toBe(204);
  const entropyOf = (life: number) => Buffer.alloc(64, life).toString('base64');
  const beginLife = () => init(entropyOf(++lives));
  const resumeInPlace = () => init(entropyOf(lives));

  /** Sends this much of a request and then nothing, and reads only when asked to. */
  async function caller(head: string, body: Uint8Array | string): Promise<Socket> {
    const socket = connect({ host: '127.0.0.1', port: machine.envd.port }).pause();
    callers.push(socket);
    socket.on('error', () => {});
    await once(socket, 'connect');
    socket.write(`${head}\r\nHost: envd\r\n`);
    socket.write(body);
    return socket;
  }
  const chunkedStream = (method: string, message: Uint8Array) =>
    caller(
      `POST /${method} HTTP/1.1`,
      Buffer.concat([
        Buffer.from('Transfer-Encoding: chunked\r\nContent-Type: application/connect+json\r\n\r\n'),
        Buffer.from(`${message.length.toString(16)}\r\n`),
        message,
        Buffer.from('\r\n'),
      ]),
    );

  async function flood(): Promise<void> {
    const process = { cmd: '/usr/bin/yes', args: ['x'.repeat(100)] };
    const started = await stream(machine.envd.url, 'process.Process/Start', { process, tag: 'flood' });
    await started.body?.cancel();
  }

  /** Whether so much of the flood comes to one who connects now, before it stands still. */
  async function floods(bytes: number): Promise<boolean> {
    const leave = new AbortController();
    const response = await stream(machine.envd.url, CONNECT, FLOOD, { signal: leave.signal });
    const reader = response.body?.getReader();
    try {
      for (let got = 0; got < bytes; ) {
        const still = new Promise<undefined>((resolve) => setTimeout(resolve, 1_500, undefined));
        const piece = await Promise.race([reader?.read(), still]);
        if (piece?.value === undefined) return false;
        got += piece.value.byteLength;
      }
      return true;
    } finally {
      leave.abort();
      await reader?.cancel().catch(() => {});
    }
  }

  it('does not wait for those who followed a process in the one before', async () => {
    await flood();
    await chunkedStream(CONNECT, envelope(FLOOD));
    expect(await floods(64 * MIB)).toBe(false);
    // The same life goes on: whoever is slow is still there.
    await resumeInPlace();
    expect(await floods(64 * MIB)).toBe(false);
    await beginLife();
    expect(await floods(64 * MIB)).toBe(true);
  }, 30_000);

  it('ends input, calls and watches that are half there', async () => {
    await flood();
    const watched = join(machine.bin, 'watched');
    mkdirSync(watched);
    const input = await chunkedStream(
      'process.Process/StreamInput',
      envelope({ start: { process: { tag: 'flood' } } }),
    );
    const half = await caller(
      'POST /process.Process/List HTTP/1.1',
      'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{',
    );
    const watch = await stream(machine.envd.url, 'filesystem.Filesystem/WatchDir', { path: watched });
    const { body } = await unary(machine.envd.url, 'filesystem.Filesystem/CreateWatcher', { path: watched });
    // So that they have all been taken.
    await new Promise((resolve) => setTimeout(resolve, 300));
    await beginLife();
    const errors: unknown[] = [];
    for await (const { payload, flags } of frames(watch.body)) {
      if ((flags & 2) !== 0) errors.push(JSON.parse(new TextDecoder().decode(payload)).error.code);
    }
    expect(errors).toEqual(['unavailable']);
    for (const socket of [input, half]) {
      await expect.poll(() => String(socket.read() ?? ''), { timeout: 5_000 }).toContain('"unavailable"');
    }
    // Whoever polls comes back with the number that they were given.
    const polled = await unary(machine.envd.url, 'filesystem.Filesystem/GetWatcherEvents', {
      watcherId: String(body.watcherId),
    });
    expect(polled.status).toBe(200);
  }, 30_000);

  it('ends an upload that has stopped, and takes the half file away', async () => {
    const path = join(machine.bin, 'half');
    await caller(
      `POST /files?path=${path} HTTP/1.1`,
      'Content-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nhalf',
    );
    await expect.poll(() => existsSync(path)).toBe(true);
    await beginLife();
    await expect.poll(() => existsSync(path), { timeout: 15_000 }).toBe(false);
  }, 30_000);

  it('ends connections to ports of the loopback, for their program too', async () => {
    const ended: Promise<string>[] = [];
    const program = createServer((socket) => {
      socket.on('error', () => {});
      ended.push(text(socket));
    }).listen(0, '127.0.0.1');
    await once(program, 'listening');
    const { port } = program.address() as AddressInfo;
    const exposed = await fetch(`${machine.envd.url}/expose`, {
      method: 'POST',
      body: JSON.stringify({ port }),
    });
    expect(exposed.status).toBe(204);
    const client = connect({ host: OUTSIDE, port });
    callers.push(client);
    client.write('half');
    await expect.poll(() => ended.length).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await beginLife();
    expect(await ended[0]).toBe('half');
    program.close();
  }, 30_000);

  it('leaves what runs alone', async () => {
    const process = { cmd: '/bin/sh', args: ['-c', 'sleep 1; exit 3'] };
    const started = await stream(machine.envd.url, 'process.Process/Start', { process, tag: 'lasting' });
    const former = finish(started);
    await beginLife();
    expect((await former).error).toMatchObject({ code: 'unavailable' });
    const again = await stream(machine.envd.url, CONNECT, { process: { tag: 'lasting' } });
    expect((await finish(again)).end).toMatchObject({ exitCode: 3 });
  }, 30_000);
});
