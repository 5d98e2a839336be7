/** TLS, by the name in its hello. Nothing is decrypted: what was read is sent on, and then both sides are joined. */
import type net from 'node:net';
import { createHelloReader } from './client-hello.ts';
import type { GuestStream } from './guest-stream.ts';
import { join, type Passage } from './passage.ts';

const PORT = 443;

export function serveTls(socket: net.Socket, passage: Passage): void {
  const guest = passage.admit(socket);
  if (guest === undefined) return;
  const reader = createHelloReader(passage.limits.maxHeadBytes);
  const timer = setTimeout(() => guest.resetAndDestroy(), passage.limits.headMs);
  guest.once('close', () => clearTimeout(timer));
  // Without a hello there is nothing to wait for.
  const onEnd = (): void => void guest.resetAndDestroy();
  const onData = (chunk: Buffer): void => {
    const hello = reader.push(chunk);
    if (hello.kind === 'more') return;
    guest.off('data', onData);
    guest.off('end', onEnd);
    guest.pause();
    clearTimeout(timer);
    if (hello.kind === 'name' && passage.allows(hello.name))
      void lead(guest, hello.name, reader.raw(), passage);
    else guest.resetAndDestroy();
  };
  guest.on('data', onData);
  guest.once('end', onEnd);
}

async function lead(guest: GuestStream, name: string, said: Buffer, passage: Passage): Promise<void> {
  const done = passage.begin(name, () => guest.resetAndDestroy());
  if (done === undefined) {
    guest.resetAndDestroy();
    return;
  }
  const server = await passage.share.run(() => passage.reach(name, PORT));
  // While it was looked for the guest may have left, or been forbidden to go there.
  if (typeof server === 'string' || guest.destroyed || !passage.allows(name)) {
    if (typeof server !== 'string') server.destroy();
    guest.resetAndDestroy();
    done();
    return;
  }
  server.write(said);
  join(guest, server, passage, done);
}
