/**
 * Opens the sockets of one sandbox's door and hands them over: a process of its own for a moment, as it is the
 * namespace in which a socket is made that it belongs to for good.
 */
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { PORTS } from './messages.ts';

/** A gateway of before may be about to end and to let go of them. */
const ATTEMPTS = 50;
const RETRY_MS = 100;

/** Leaves when the agent has taken them. */
export async function runEgressDoor(): Promise<void> {
  if (process.send === undefined)
    throw new WrennError('invalid_argument', 'The egress door is opened by the agent.');
  // Stays for as long as the agent is there to take them.
  process.on('message', () => {});
  for (const port of PORTS) {
    const server = await listen(port);
    process.send({ port }, server, undefined, () => server.close());
  }
}

async function listen(port: number): Promise<net.Server> {
  for (let attempt = 1; ; attempt += 1) {
    const server = net.createServer();
    const failure = await new Promise<unknown>((resolve) => {
      server.once('error', resolve);
      server.listen({ host: '0.0.0.0', port }, () => resolve(undefined));
    });
    if (failure === undefined) return server;
    if (attempt === ATTEMPTS) throw failure;
    await sleep(RETRY_MS);
  }
}
