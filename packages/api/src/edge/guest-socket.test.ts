/** Which bytes are whose, and that none are overwritten while somebody has them. Over real sockets. */
import { once } from 'node:events';
import type { Server as HttpServer } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { listening, portOf } from '../testing/edge-scene.ts';
import { askBeforeEachPiece, connectToGuest } from './guest-socket.ts';

let releases: (() => void)[] = [];
afterEach(() => {
  for (const release of releases) release();
  releases = [];
});

/** No two places of it look alike. */
const bytesFrom = (start: number, count: number): Buffer =>
  Buffer.from(Uint32Array.from({ length: count }, (_, index) => start + index).buffer);

/** A connection, and the guest's end of it. */
async function pair(): Promise<{ socket: Socket; guest: Socket }> {
  const server = createServer();
  await listening(server as unknown as HttpServer);
  const accepted = once(server, 'connection');
  const socket = connectToGuest({ port: portOf(server as unknown as HttpServer), host: '127.0.0.1' });
  const [guest] = (await accepted) as [Socket];
  if (socket.connecting) await once(socket, 'connect');
  releases.push(() => {
    socket.destroy();
    guest.destroy();
    server.close();
  });
  return { socket, guest };
}

describe('a connection to a guest', () => {
  it('gives each reader its own, though many read to one place', async () => {
    const pairs = await Promise.all(Array.from({ length: 8 }, pair));
    // Small pieces that nobody takes yet, then large ones.
    for (const [index, { guest }] of pairs.entries()) guest.write(bytesFrom(index * 1e6, 500));
    for (const { socket } of pairs) socket.read(0);
    await expect.poll(() => pairs.map(({ socket }) => socket.readableLength)).toEqual(Array(8).fill(2000));
    for (const [index, { guest }] of pairs.entries()) guest.end(bytesFrom(index * 1e6 + 500, 300_000));
    const got = await Promise.all(pairs.map(({ socket }) => socket.toArray()));
    for (const [index, pieces] of got.entries()) {
      expect(Buffer.concat(pieces).equals(bytesFrom(index * 1e6, 300_500))).toBe(true);
    }
  });

  it('tells of its end, and is held back while it is paused', async () => {
    const { socket, guest } = await pair();
    socket.on('data', () => {}).pause();
    const isTaken = guest.write(bytesFrom(0, 4_000_000));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect([isTaken, guest.writableLength > 0]).toEqual([false, true]);
    guest.end();
    socket.resume();
    await once(socket, 'end');
    expect(socket.bytesRead).toBe(16_000_000);
  });

  it('asks before each piece whose it is, and never again once it is not the parser’s', async () => {
    const { socket, guest } = await pair();
    const [parsed, past]: [Buffer[], Buffer[]] = [[], []];
    let asked = 0;
    socket.on('data', (piece) => parsed.push(piece));
    askBeforeEachPiece(socket, () => {
      asked += 1;
      if (asked < 3) return undefined;
      return (piece, done) => {
        past.push(Buffer.from(piece));
        done();
        return true;
      };
    });
    for (const text of ['one', 'two', 'three', 'four']) {
      guest.write(text);
      await expect.poll(() => Buffer.concat([...parsed, ...past]).toString()).toContain(text);
    }
    expect([parsed, past].map((pieces) => Buffer.concat(pieces).toString())).toEqual(['onetwo', 'threefour']);
    expect(asked).toBe(3);
  });

  it('reads to no place that is in use, whoever has it read on', async () => {
    const { socket, guest } = await pair();
    const pieces: Buffer[] = [];
    askBeforeEachPiece(socket, () => (piece) => {
      pieces.push(piece);
      setImmediate(() => socket.resume());
      return false;
    });
    guest.end(bytesFrom(0, 1_000_000));
    await once(socket.resume(), 'end');
    expect(Buffer.concat(pieces).equals(bytesFrom(0, 1_000_000))).toBe(true);
  });

  it('uses a place again that is free', async () => {
    const { socket, guest } = await pair();
    const places = new Set<ArrayBufferLike>();
    askBeforeEachPiece(socket, () => (piece, done) => {
      places.add(piece.buffer);
      done();
      return true;
    });
    guest.end(bytesFrom(0, 1_000_000));
    await once(socket.resume(), 'end');
    // The first piece was read before anybody was asked.
    expect(places.size).toBeLessThanOrEqual(2);
  });
});
