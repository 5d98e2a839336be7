/**
 * Makes a port that a program has opened for this machine alone reachable from outside, at the same number: it listens
 * where the world comes in, and passes every connection on to the loopback. Only when asked, and only as long as it is
 * of use and the program listens, because that may want to listen there itself one day, or when it is started again.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Lives } from '../lives.ts';
import { logError } from '../log.ts';
import { isListening, listeningPorts } from './listeners.ts';

export interface Forwarder {
  /** Whether something listens on the loopback, and is reachable from outside from now on. */
  expose(port: number): Promise<boolean>;
}

export interface ForwarderOptions {
  /** Where the world comes in. */
  readonly host: string;
  /** A port that nobody has used for so long is given up. */
  readonly idleMs: number;
  /** A connection ends with the life in which it was made. */
  readonly lives: Lives;
}

const PORTS_MAX = 64;
const CONNECTIONS_MAX = 256;
const CONNECT_TIMEOUT_MS = 2_000;
/** How long after its program's end a port may be taken. */
const LOOK_AGAIN_MS = 1_000;
const LOOPBACKS = ['127.0.0.1', '::1'];

interface Exposed {
  readonly server: Server;
  readonly ready: Promise<boolean>;
  connections: number;
  idle: Timer | undefined;
}

export function createForwarder({ host, idleMs, lives }: ForwarderOptions): Forwarder {
  const exposed = new Map<number, Exposed>();
  let looking: Timer | undefined;

  const giveUp = (port: number): void => {
    const one = exposed.get(port);
    exposed.delete(port);
    clearTimeout(one?.idle);
    one?.server.close();
    if (exposed.size > 0) return;
    clearInterval(looking);
    looking = undefined;
  };
  let isLooking = false;
  let isLookWanted = false;
  /** One look at a time, and one more for all that is asked meanwhile: connections may end by the thousand. */
  const giveUpWhatHasEnded = async (): Promise<void> => {
    isLookWanted = true;
    if (isLooking) return;
    isLooking = true;
    try {
      while (isLookWanted) {
        isLookWanted = false;
        await look();
      }
    } catch (error) {
      logError('cannot see who listens', error);
    } finally {
      isLooking = false;
    }
  };
  const look = async (): Promise<void> => {
    const asked = [...exposed];
    const listening = await listeningPorts();
    for (const [port, one] of asked) {
      if (!listening.has(port) && exposed.get(port) === one) giveUp(port);
    }
  };
  const giveUpWhenIdle = (port: number, one: Exposed): void => {
    clearTimeout(one.idle);
    if (one.connections > 0) return;
    one.idle = setTimeout(() => giveUp(port), idleMs);
    one.idle.unref();
  };

  const pass = async (port: number, one: Exposed, client: Socket): Promise<void> => {
    client.on('error', () => client.destroy());
    const life = lives.current;
    const leave = (): void => void client.destroy();
    life.addEventListener('abort', leave, { once: true });
    one.connections += 1;
    clearTimeout(one.idle);
    client.once('close', () => {
      life.removeEventListener('abort', leave);
      one.connections -= 1;
      if (exposed.get(port) !== one) return;
      giveUpWhenIdle(port, one);
      void giveUpWhatHasEnded();
    });
    const program = await dial(port);
    if (program === undefined) {
      // It has gone: the next client is refused as it would be without this.
      client.resetAndDestroy();
      return giveUp(port);
    }
    if (client.destroyed) return void program.destroy();
    program.on('error', () => client.resetAndDestroy());
    program.once('close', () => client.destroy());
    client.once('close', () => program.destroy());
    client.pipe(program);
    program.pipe(client);
  };

  const listen = (port: number): Exposed => {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: false }, (client) => {
      void pass(port, one, client);
    });
    server.maxConnections = CONNECTIONS_MAX;
    const ready = new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen({ host, port, exclusive: true }, () => resolve(true));
    });
    const one: Exposed = { server, ready, connections: 0, idle: undefined };
    exposed.set(port, one);
    looking ??= setInterval(() => void giveUpWhatHasEnded(), LOOK_AGAIN_MS);
    return one;
  };

  return {
    expose: async (port) => {
      if (!(await isListening(port))) {
        giveUp(port);
        return false;
      }
      const known = exposed.get(port);
      if (known === undefined && exposed.size >= PORTS_MAX) return false;
      const one = known ?? listen(port);
      const isReady = await one.ready;
      // Else the program has opened it to the world meanwhile.
      if (isReady) giveUpWhenIdle(port, one);
      else giveUp(port);
      return true;
    },
  };
}

/** A connection to whatever listens on the loopback; undefined where nothing does. */
async function dial(port: number): Promise<Socket | undefined> {
  for (const host of LOOPBACKS) {
    const socket = await dialOne(host, port);
    if (socket !== undefined) return socket;
  }
  return undefined;
}

function dialOne(host: string, port: number): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, allowHalfOpen: true });
    const timer = setTimeout(() => socket.destroy(), CONNECT_TIMEOUT_MS);
    const settle = (outcome: Socket | undefined): void => {
      clearTimeout(timer);
      resolve(outcome);
    };
    socket.once('connect', () => settle(socket));
    socket.once('error', () => settle(undefined));
    socket.once('close', () => settle(undefined));
  });
}
