/**
 * Starts the gateway when the first sandbox needs it, tells it what to do, and starts it again when it dies: the
 * sandboxes do not notice but for connections that break. Agent and gateway trust each other in one direction alone:
 * what the gateway answers is parsed as a stranger's.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import net from 'node:net';
import { killProcess, NETNS_DIR, plainEnvironment, processesOfUser, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted, withinMs } from '../../signals/signals.ts';
import {
  type DoorPolicy,
  fromDoorSchema,
  fromGatewaySchema,
  type GatewaySettings,
  PORTS,
  type ToGateway,
} from './messages.ts';

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
  readonly command: (role: 'egress-gateway' | 'egress-door') => readonly string[];
  /** Comes before the gateway's command; for tests, which have a network namespace in the host's place. */
  readonly wrapper?: readonly string[];
  readonly onWarning: (message: string, cause: unknown) => void;
}

interface Gateway {
  readonly child: ChildProcess;
  /** Doors that it listens at, or is about to. */
  readonly doors: Map<string, Promise<void>>;
  call(message: Unnumbered, handle?: net.Server): Promise<void>;
  readonly ended: Promise<void>;
}

type Unnumbered = ToGateway extends infer M ? (M extends ToGateway ? Omit<M, 'id'> : never) : never;

const START_MS = 20_000;
const ANSWER_MS = 10_000;
const DOOR_MS = 20_000;
const STOP_MS = 2000;
const POLL_MS = 20;
const RESTART_MIN_MS = 100;
const RESTART_MAX_MS = 10_000;
/** One that has lived so long is started again at once. */
const STABLE_MS = 60_000;
const RESTORED_AT_ONCE = 4;
const COMPLAINT_MAX_CHARS = 2000;

export function createEgressGateway(options: EgressGatewayOptions): EgressGateway {
  const { settings, command, wrapper = [], onWarning } = options;
  /** What is to be open, also while there is no gateway. */
  const wanted = new Map<string, DoorPolicy>();
  let current: Promise<Gateway> | undefined;
  let restart: NodeJS.Timeout | undefined;
  let restartMs = RESTART_MIN_MS;
  let isStopped = false;

  const start = async (): Promise<Gateway> => {
    // Of an agent that was killed; it ends by itself, unless it hangs.
    await killUsersProcesses(settings.uid);
    const [program = '', ...args] = [
      ...wrapper,
      'setpriv',
      '--no-new-privs',
      '--bounding-set=-all,+setuid,+setgid',
      '--',
      ...command('egress-gateway'),
    ];
    const gateway = connect(program, args);
    const startedAt = performance.now();
    void gateway.ended.then(() => {
      if (isStopped) return;
      current = undefined;
      restartMs =
        performance.now() - startedAt > STABLE_MS ? RESTART_MIN_MS : Math.min(restartMs * 2, RESTART_MAX_MS);
      if (wanted.size > 0) later();
    });
    try {
      await withinMs(START_MS, 'Starting the egress gateway', gateway.call({ type: 'start', settings }));
      return gateway;
    } catch (error) {
      gateway.child.kill('SIGKILL');
      throw error;
    }
  };

  const connect = (program: string, args: readonly string[]): Gateway => {
    const child = spawn(program, args, {
      cwd: '/',
      // A terminal's Ctrl+C is for the agent.
      detached: true,
      env: plainEnvironment(),
      shell: false,
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    const calls = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
    let [complaint, lastId] = ['', 0];
    child.stderr?.on('data', (chunk: Buffer) => {
      complaint = (complaint + chunk.toString('utf8')).slice(-COMPLAINT_MAX_CHARS);
    });
    child.on('message', (received) => {
      const answer = fromGatewaySchema.safeParse(received);
      if (!answer.success) return void child.kill('SIGKILL');
      const call = calls.get(answer.data.done);
      calls.delete(answer.data.done);
      if (answer.data.problem === undefined) call?.resolve();
      else call?.reject(failed(`The egress gateway failed: ${answer.data.problem}`));
    });
    const ended = new Promise<void>((resolve) => {
      const onEnd = (cause?: unknown): void => {
        for (const { reject } of calls.values()) reject(failed('The egress gateway ended.', cause));
        calls.clear();
        if (!isStopped) onWarning('the egress gateway ended', cause ?? failed(complaint || 'without a word'));
        resolve();
      };
      child.once('error', onEnd);
      child.once('exit', () => onEnd());
    });
    unref(child);
    const call = (message: Unnumbered, handle?: net.Server): Promise<void> => {
      lastId += 1;
      const id = lastId;
      const answered = new Promise<void>((resolve, reject) => {
        calls.set(id, { resolve, reject });
        if (!child.connected) return reject(failed('The egress gateway ended.'));
        child.send({ ...message, id }, handle, (error) => {
          if (error !== null) reject(failed('The egress gateway is not to be reached.', error));
        });
      });
      return withinMs(ANSWER_MS, 'The answer of the egress gateway', answered).catch((error: unknown) => {
        calls.delete(id);
        // One that does not answer is of no use to the others either.
        if (error instanceof WrennError && error.code === 'deadline_exceeded') child.kill('SIGKILL');
        throw error;
      });
    };
    return { child, doors: new Map(), call, ended };
  };

  const running = (): Promise<Gateway> => {
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

  const bring = async (netns: string, policy: DoorPolicy): Promise<void> => {
    const gateway = await running();
    await gateway.call({ type: 'policy', door: netns, policy });
    let door = gateway.doors.get(netns);
    if (door === undefined) {
      door = handOver(netns, gateway);
      gateway.doors.set(netns, door);
      door.catch(() => gateway.doors.delete(netns));
    }
    await door;
  };

  const handOver = async (netns: string, gateway: Gateway): Promise<void> => {
    const sockets = openDoor(['nsenter', `--net=${NETNS_DIR}/${netns}`, '--', ...command('egress-door')]);
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
        const policy = wanted.get(netns);
        if (policy === undefined || isStopped) continue;
        await bring(netns, policy).catch((error: unknown) => {
          if (wanted.has(netns ?? '')) failure = error;
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
      await bring(netns, policy);
      throwIfAborted(signal);
    },
    close: async (netns) => {
      wanted.delete(netns);
      const gateway = await current?.catch(() => undefined);
      const door = gateway?.doors.get(netns);
      if (gateway === undefined) return;
      await door?.catch(() => {});
      gateway.doors.delete(netns);
      await gateway.call({ type: 'close', door: netns }).catch(() => {
        // A socket of its would keep the namespace. The others get theirs back from the next one.
        gateway.child.kill('SIGKILL');
        return gateway.ended;
      });
    },
    stop: async () => {
      isStopped = true;
      clearTimeout(restart);
      const gateway = await current?.catch(() => undefined);
      if (gateway === undefined) return;
      if (gateway.child.connected) gateway.child.disconnect();
      await withinMs(STOP_MS, 'The end of the egress gateway', gateway.ended).catch(() => {
        gateway.child.kill('SIGKILL');
        return gateway.ended;
      });
    },
  };
}

/** Servers that listen in a namespace, made by a process that has entered it. */
function openDoor([program = '', ...args]: readonly string[]) {
  const child = spawn(program, args, {
    cwd: '/',
    detached: true,
    env: plainEnvironment(),
    shell: false,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  unref(child);
  const servers: { readonly port: 80 | 443; readonly server: net.Server }[] = [];
  const opened = new Promise<typeof servers>((resolve, reject) => {
    child.on('message', (received, handle) => {
      if (!(handle instanceof net.Server)) return;
      // Whoever comes before the gateway has it comes too early.
      handle.on('connection', (socket) => socket.destroy());
      servers.push({ port: fromDoorSchema.parse(received).port, server: handle });
      if (servers.length === PORTS.length) resolve(servers);
    });
    child.once('error', (cause) => reject(failed('The egress door cannot be opened.', cause)));
    child.once('exit', (code) => reject(failed(`The egress door cannot be opened: it ended with ${code}.`)));
  });
  opened.catch(() => {});
  return {
    opened,
    close: (): void => {
      for (const { server } of servers) server.close();
      child.kill('SIGKILL');
    },
  };
}

/** Nothing that keeps the agent from ending. */
function unref(child: ChildProcess): void {
  child.unref();
  child.channel?.unref();
  if (child.stderr instanceof net.Socket) child.stderr.unref();
}

async function killUsersProcesses(uid: number): Promise<void> {
  for (const identity of await processesOfUser(uid)) {
    await killProcess(identity, 'SIGKILL');
    await withinMs(
      STOP_MS,
      'The end of an earlier egress gateway',
      waitUntilGone(identity, { pollMs: POLL_MS }),
    );
  }
}

function failed(message: string, cause?: unknown): WrennError {
  return new WrennError('internal', message, cause === undefined ? {} : { cause });
}
