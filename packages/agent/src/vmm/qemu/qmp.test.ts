/** What a real QEMU never does, said by a server of the test: the driver's contract covers the rest. */
import { setMaxListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  LINE_LIMIT_BYTES,
  lineReader,
  MAX_LINES_PER_SECOND,
  openQmp,
  type QmpClient,
  type QmpEvent,
} from './qmp.ts';

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}\r\n';
const never = new AbortController().signal;

let dir: string;
let server: Server | undefined;
let peers: Socket[];
let events: QmpEvent[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrqmp-'));
  peers = [];
  events = [];
});
afterEach(async () => {
  for (const peer of peers) peer.destroy();
  await new Promise((resolve) => server?.close(resolve) ?? resolve(undefined));
  rmSync(dir, { recursive: true });
});

type Answer = (command: { execute: string; id: number; arguments: unknown }, peer: Socket) => void;

/** Greets, accepts qmp_capabilities, and leaves the rest to `answer`. */
async function open(
  answer: Answer,
  options: { greeting?: string; timeoutMs?: number } = {},
): Promise<QmpClient> {
  const path = join(dir, 'qmp.sock');
  server = createServer((peer) => {
    peers.push(peer);
    peer.on('error', () => {});
    peer.write(options.greeting ?? GREETING);
    peer.on(
      'data',
      lineReader(
        (line) => {
          const command = JSON.parse(line);
          if (command.execute === 'qmp_capabilities') peer.write(`{"return": {}, "id": ${command.id}}\r\n`);
          else answer(command, peer);
        },
        () => {},
      ),
    );
  });
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  const socket = connect(path);
  await new Promise((resolve) => socket.once('connect', resolve));
  return openQmp(socket, {
    signal: never,
    timeoutMs: options.timeoutMs ?? 10_000,
    onEvent: (event) => events.push(event),
  });
}

const ask = (client: QmpClient, command = 'query-status', timeoutMs = 10_000, signal = never) =>
  client.execute(command, {}, { signal, timeoutMs });

describe('the QMP client', () => {
  it('tells answers apart, in whatever order and pieces they come', async () => {
    const waiting: number[] = [];
    const client = await open(({ id }, peer) => {
      waiting.push(id);
      if (waiting.length < 3) return;
      const text = waiting
        .reverse()
        .map((each) => `{"id": ${each}, "return": "to ${each}"}\n`)
        .join('{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n\r\n');
      for (const byte of Buffer.from(text)) peer.write(Buffer.from([byte]));
    });
    const answers = await Promise.all([ask(client, 'a'), ask(client, 'b'), ask(client, 'c')]);
    expect(new Set(answers).size).toBe(3);
    expect(events.map(({ name }) => name)).toEqual(['RESUME', 'RESUME']);
    client.close();
  });

  it('tells a refusal, with what could harm a terminal escaped', async () => {
    const client = await open(({ id }, peer) => {
      peer.write(`${JSON.stringify({ id, error: { class: 'GenericError', desc: 'no\u001b[2J\nway' } })}\n`);
    });
    await expect(ask(client)).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: 'QEMU refused query-status: no\\x1b[2J\\x0away',
    });
    expect(client.isOpen()).toBe(true);
    client.close();
  });

  it('waits until the deadline and no longer, and ignores what comes late', async () => {
    const client = await open(({ id, execute }, peer) => {
      if (execute === 'slow') setTimeout(() => peer.write(`{"id": ${id}, "return": "late"}\n`), 100);
      else peer.write(`{"id": ${id}, "return": "now"}\n`);
    });
    await expect(ask(client, 'slow', 30)).rejects.toMatchObject({ code: 'deadline_exceeded' });
    await sleep(100);
    expect(await ask(client)).toBe('now');
    client.close();
  });

  it('heeds an abort, before and while it waits', async () => {
    const client = await open(() => {});
    await expect(ask(client, 'x', 1_000, AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
    await expect(ask(client, 'x', 1_000, AbortSignal.timeout(20))).rejects.toMatchObject({
      code: 'cancelled',
    });
    client.close();
  });

  it('refuses to pile up commands', async () => {
    const client = await open(() => {});
    setMaxListeners(100, never);
    const many = Array.from({ length: 65 }, () => ask(client, 'x', 100));
    const outcomes = await Promise.allSettled(many);
    expect(outcomes.at(-1)).toMatchObject({ reason: { code: 'vmm_api_error' } });
    client.close();
  });

  it.each([
    ['garbage', 'hello\n'],
    ['an array', '[1,2]\n'],
    ['half a message', '{"return":\n'],
    ['an answer to nobody in particular', '{"return": {}}\n'],
    ['an id that is none', '{"return": {}, "id": {"a": 1}}\n'],
    ['bytes that are no text', Buffer.from([0xff, 0x00, 0xfe, 0x0a])],
    ['a giant line', Buffer.alloc(LINE_LIMIT_BYTES + 1, 'x')],
    ['a giant line in pieces', '{"event": "'.padEnd(LINE_LIMIT_BYTES * 2, 'x')],
  ])('ends the connection at %s, and tells whoever waits', async (_, bytes) => {
    const client = await open((_command, peer) => void peer.write(bytes));
    await expect(ask(client)).rejects.toMatchObject({ code: 'vmm_api_error' });
    await client.closed;
    await expect(ask(client)).rejects.toMatchObject({ code: 'vmm_api_error' });
    client.close();
  });

  it('tells of a connection that is lost', async () => {
    const client = await open((_, peer) => void peer.destroy());
    const failure = await ask(client).catch((error: unknown) => ({ error, isOpen: client.isOpen() }));
    // Known by the time that anybody hears of it.
    expect(failure).toMatchObject({ error: { message: 'The connection to QEMU was lost.' }, isOpen: false });
    await client.closed;
  });

  it.each([
    ['says nothing', '', 'deadline_exceeded'],
    ['is no QMP server', 'SSH-2.0-OpenSSH_9.2\r\n', 'vmm_api_error'],
    ['says half of its greeting', GREETING.slice(0, 20), 'deadline_exceeded'],
  ])('gives up on a peer that %s', async (_, greeting, code) => {
    // Those that say nothing more are waited for; the other is to be told by what it says.
    const timeoutMs = code === 'deadline_exceeded' ? 100 : 10_000;
    await expect(open(() => {}, { greeting, timeoutMs })).rejects.toMatchObject({ code });
  });

  it('is done with a peer that talks without end', async () => {
    const client = await open(({ id }, peer) => {
      const flood = '{"event": "RTC_CHANGE", "data": {"offset": 0}}\n'.repeat(20_000);
      peer.write(`${flood}{"return": "after", "id": ${id}}\n`);
    });
    await expect(ask(client)).rejects.toMatchObject({ message: 'QEMU talks without end.' });
    expect(events.length).toBeLessThanOrEqual(MAX_LINES_PER_SECOND);
  });
});

describe('lines', () => {
  it('come out the same, however the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme' }).map((text) => text.replace(/[\r\n]/g, '').trim())),
        fc.array(fc.nat(50)),
        (lines, cuts) => {
          const bytes = Buffer.from(lines.map((line) => `${line}\r\n`).join(''));
          const seen: string[] = [];
          const read = lineReader(
            (line) => seen.push(line),
            () => expect.unreachable(),
          );
          let at = 0;
          for (const cut of cuts) {
            read(bytes.subarray(at, at + cut));
            at = Math.min(bytes.length, at + cut);
          }
          read(bytes.subarray(at));
          expect(seen).toEqual(lines.filter((line) => line !== ''));
        },
      ),
    );
  });
});
