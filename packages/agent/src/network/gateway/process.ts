/**
 * The gateway, a process without privileges of its own user: it speaks with guests, and so nothing else is in it. The
 * agent gives it, through its keeper, sockets that listen in sandboxes' namespaces and the names that may be reached from each; it ends
 * with the agent.
 */
import net from 'node:net';
import { parseHostPattern, parseIpv4Range } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { HIGH_WATER_MARK_BYTES } from './guest-stream.ts';
import { createHttpServer } from './http-passage.ts';
import { fromGatewaySchema, type GatewaySettings, type ToGateway, toGatewaySchema } from './messages.ts';
import { createPassage, type Passage } from './passage.ts';
import { createReach, type Reach } from './reach.ts';
import { createShares } from './share.ts';
import { serveTls } from './tls-passage.ts';

interface Door {
  readonly passage: Passage;
  readonly servers: net.Server[];
}

/** Runs until the agent is gone. */
export function runEgressGateway(): void {
  if (process.send === undefined) {
    throw new WrennError('invalid_argument', 'The egress gateway is started by the agent.');
  }
  const doors = new Map<string, Door>();
  const newShare = createShares();
  let settings: GatewaySettings | undefined;
  let reach: Reach | undefined;

  const act = async (message: ToGateway, handle: unknown): Promise<void> => {
    if (message.type === 'start') {
      dropPrivileges(message.settings.uid);
      settings = message.settings;
      reach = createReach({ ...settings, denied: settings.denied.map(parseIpv4Range) });
      return;
    }
    if (settings === undefined || reach === undefined) throw new Error('not started');
    const known = doors.get(message.door);
    if (message.type === 'policy') {
      const { names, transmitBytesPerSecond } = message.policy;
      const opened = known ?? { passage: createPassage(settings.limits, reach, newShare()), servers: [] };
      doors.set(message.door, opened);
      opened.passage.setPolicy({ names: names.map(parseHostPattern), transmitBytesPerSecond });
    } else if (message.type === 'listen') {
      if (!(handle instanceof net.Server)) throw new Error('nothing to listen with');
      if (known === undefined) {
        // It would keep the namespace.
        handle.close();
        throw new Error('nothing to listen for');
      }
      await listen(known, message.port, handle);
    } else if (known !== undefined) {
      doors.delete(message.door);
      for (const server of known.servers) server.close();
      known.passage.close();
    }
  };

  process.on('message', (received: unknown, handle: unknown) => {
    const message = toGatewaySchema.parse(received);
    act(message, handle).then(
      () => answer(message.id),
      (error: unknown) => answer(message.id, error instanceof Error ? error.message : 'failed'),
    );
  });
  process.on('disconnect', () => process.exit(0));
}

function answer(id: number, problem?: string): void {
  const message = fromGatewaySchema.parse({
    done: id,
    ...(problem === undefined ? {} : { problem: problem.slice(0, 1000) }),
  });
  process.send?.(message, undefined, undefined, () => {});
}

/** Takes over the socket of a server that Node has made of what was received. */
function listen({ passage, servers }: Door, port: 80 | 443, received: net.Server): Promise<void> {
  const server = port === 80 ? createHttpServer(passage) : tlsServer(passage);
  servers.push(server);
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(received, () => {
      server.off('error', reject);
      // Accepting fails when there are too many open files: those that are open go on.
      server.on('error', () => {});
      resolve();
    });
  });
}

function tlsServer(passage: Passage): net.Server {
  const options = {
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    highWaterMark: HIGH_WATER_MARK_BYTES,
  };
  return net.createServer(options, (guest) => serveTls(guest, passage));
}

/** With another user the capabilities go too; `setpriv` has seen to it that none come back. */
function dropPrivileges(uid: number): void {
  if (process.geteuid?.() !== 0) return;
  process.setgroups?.([]);
  process.setgid?.(uid);
  process.setuid?.(uid);
}
