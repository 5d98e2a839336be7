/**
 * Starts the gateway when the first sandbox needs it, tells it what to do, and starts it again when it dies: the
 * sandboxes do not notice but for connections that break.
 */
import { NETNS_DIR } from '@wrenn/host';
import { throwIfAborted, withinMs } from '../../signals/signals.ts';
import { failed, type GatewayLink, killUsersProcesses, openLink } from './link.ts';
import type { DoorPolicy, GatewaySettings } from './messages.ts';
import { openSockets } from './sockets.ts';

export type { DoorPolicy } from './messages.ts';

export interface EgressGateway {
  /** Listens in the namespace for what its rules lead there; of one that is open, replaces what may be reached. */
  open(netns: string, policy: DoorPolicy, signal: AbortSignal): Promise<void>;
  /** Ends all connections and lets go of the namespace. Idempotent. */
  close(netns: string): Promise<void>;
  stop(): Promise<void>;
}

export interface EgressGatewayOptions {
  readonly settings: GatewaySettings;
  /** Starts this program in one of its other roles. */
  readonly command: (role: 'egress-keeper' | 'egress-door') => readonly string[];
  /** Comes before the gateway's command; for tests, which have a network namespace in the host's place. */
  readonly wrapper?: readonly string[];
  readonly onWarning: (message: string, cause: unknown) => void;
}

const START_MS = 20_000;
const DOOR_MS = 20_000;
const RESTART_MIN_MS = 100;
const RESTART_MAX_MS = 10_000;
/** One that has lived so long is started again at once. */
const STABLE_MS = 60_000;
const RESTORED_AT_ONCE = 4;

export function createEgressGateway(options: EgressGatewayOptions): EgressGateway {
  const { settings, command, wrapper = [], onWarning } = options;
  /** What is to be open, also while there is no gateway. */
  const wanted = new Map<string, DoorPolicy>();
  /** Who listens at which door. */
  const doors = new Map<string, GatewayLink>();
  const inTurn = createTurns();
  let current: Promise<GatewayLink> | undefined;
  let restart: NodeJS.Timeout | undefined;
  let restartMs = RESTART_MIN_MS;
  let isStopped = false;

  /** On failure nothing of it is left. */
  const start = async (): Promise<GatewayLink> => {
    // Of an agent that was killed; it ends by itself, unless it hangs.
    await killUsersProcesses(settings.uid);
    const startedAt = performance.now();
    const link = openLink({
      // The gateway has its keeper's bounds, and then another user as well.
      command: [
        ...[...wrapper, 'setpriv', '--no-new-privs', '--bounding-set=-all,+setuid,+setgid,+kill', '--'],
        ...command('egress-keeper'),
      ],
      uid: settings.uid,
      onWarning,
      onEnd: (why) => {
        current = undefined;
        if (isStopped) return;
        onWarning('the egress gateway ended', why);
        const hasLasted = performance.now() - startedAt > STABLE_MS;
        restartMs = hasLasted ? RESTART_MIN_MS : Math.min(restartMs * 2, RESTART_MAX_MS);
        if (wanted.size > 0) later();
      },
    });
    try {
      await link.call({ type: 'start', settings }, undefined, START_MS);
      return link;
    } catch (error) {
      await link.end();
      throw error;
    }
  };

  const running = (): Promise<GatewayLink> => {
    if (isStopped) return Promise.reject(failed('The egress gateway was stopped.'));
    if (current === undefined) {
      const starting = start();
      current = starting;
      starting.catch(() => {
        if (current === starting) current = undefined;
      });
    }
    return current;
  };

  /** What is wanted at that door by now; to be called in its turn. */
  const bring = async (netns: string): Promise<void> => {
    const policy = wanted.get(netns);
    if (policy === undefined) return;
    const gateway = await running();
    await gateway.call({ type: 'policy', door: netns, policy });
    if (doors.get(netns) === gateway) return;
    try {
      await handOver(netns, gateway);
      doors.set(netns, gateway);
    } catch (error) {
      // Half a door keeps the namespace, and the next one from listening.
      await shut(netns, gateway);
      throw error;
    }
  };

  const shut = async (netns: string, gateway: GatewayLink): Promise<void> => {
    // A socket of its would keep the namespace. The others get theirs back from the next one.
    await gateway.call({ type: 'close', door: netns }).catch(() => gateway.end());
  };

  const handOver = async (netns: string, gateway: GatewayLink): Promise<void> => {
    const sockets = openSockets(['nsenter', `--net=${NETNS_DIR}/${netns}`, '--', ...command('egress-door')]);
    try {
      for (const { port, server } of await withinMs(DOOR_MS, 'Opening the egress door', sockets.opened)) {
        await gateway.call({ type: 'listen', door: netns, port }, server);
      }
    } finally {
      sockets.close();
    }
  };

  const later = (): void => {
    clearTimeout(restart);
    restart = setTimeout(() => void restore(), restartMs).unref();
  };

  const restore = async (): Promise<void> => {
    const left = [...wanted.keys()];
    let failure: unknown;
    const worker = async (): Promise<void> => {
      for (let netns = left.shift(); netns !== undefined; netns = left.shift()) {
        const door = netns;
        if (isStopped) return;
        await inTurn(door, () => bring(door)).catch((error: unknown) => {
          if (wanted.has(door)) failure = error;
        });
      }
    };
    await Promise.all(Array.from({ length: RESTORED_AT_ONCE }, worker));
    if (failure === undefined || isStopped) return;
    onWarning('the egress gateway does not serve all sandboxes; trying again', failure);
    restartMs = Math.min(restartMs * 2, RESTART_MAX_MS);
    later();
  };

  return {
    open: async (netns, policy, signal) => {
      throwIfAborted(signal);
      wanted.set(netns, policy);
      await inTurn(netns, () => bring(netns));
      throwIfAborted(signal);
    },
    close: async (netns) => {
      wanted.delete(netns);
      await inTurn(netns, async () => {
        const gateway = doors.get(netns);
        doors.delete(netns);
        if (gateway !== undefined) await shut(netns, gateway);
      });
    },
    stop: async () => {
      isStopped = true;
      clearTimeout(restart);
      await (await current?.catch(() => undefined))?.end();
    },
  };
}

/** Of the same name one after the other, whatever becomes of those before. */
function createTurns(): <T>(name: string, work: () => Promise<T>) => Promise<T> {
  const last = new Map<string, Promise<unknown>>();
  return async (name, work) => {
    const before = last.get(name) ?? Promise.resolve();
    const mine = before.then(work, work);
    last.set(name, mine);
    try {
      return await mine;
    } finally {
      if (last.get(name) === mine) last.delete(name);
    }
  };
}
