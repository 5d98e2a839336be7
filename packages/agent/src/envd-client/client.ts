/** A client of one guest's envd. Cheap to make; connects when something is asked. */
import { Agent } from 'node:http';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { ENVD_PORT, type WrennError } from '@wrenn/protocol';
import { type EntryInfo, Filesystem } from '@wrenn/protocol/filesystem';
import { Process, type ProcessEvent, ProcessSelectorSchema } from '@wrenn/protocol/process';
import { withDeadline } from '../signals/signals.ts';
import { createFileTransfers, type FileTransfers } from './files.ts';
import { fromGuest, guestText, misbehaved } from './guest-errors.ts';
import { waitUntilHealthy } from './health.ts';
import { readText, sendHttp } from './http.ts';
import { type Acknowledged, sendShortInit } from './short-init.ts';

export interface EnvdClientOptions {
  readonly host: string;
  readonly port?: number;
  readonly accessToken: string;
  /** For every question that the guest can answer at once. */
  readonly requestTimeoutMs: number;
  /** For transfers: the longest time in which nothing moves. */
  readonly stallMs: number;
  /** After so long without a request a connection is given up. */
  readonly idleConnectionMs?: number;
}

export interface GuestInit {
  readonly envs: Readonly<Record<string, string>>;
  readonly defaultUser: string;
  readonly defaultWorkdir: string;
  /** What makes the guest a machine of its own: for each clone of a snapshot, and harmless to repeat. */
  readonly identity?: GuestIdentity;
  /** True if `envs` are all there is; else they come on top of what the guest has, its parent's for a clone. */
  readonly replaceEnvs?: boolean;
  /** The one that the guest still knows, where this client's own is to replace it. */
  readonly previousAccessToken?: string;
  /**
   * With it the guest may answer before it has applied them; it does not answer anything else before. For guests in which
   * nothing runs that could see the difference. Called where the guest says afterwards that it could not: it is of no use.
   */
  readonly onRefused?: (error: WrennError) => void;
}

/** The guest refuses what is malformed, and changes nothing then. */
export interface GuestIdentity {
  /** A label of at most 63 characters. */
  readonly hostname?: string;
  /** 32 lower-case hexadecimal digits. A new one also renews the guest's SSH host keys. */
  readonly machineId?: string;
  /**
   * 32 to 512 bytes, never used before: all that the guest's kernel calls random depends on them from then on, and by
   * them the guest knows a new life from a late request of the one before.
   */
  readonly entropy?: Uint8Array;
  /** At most three IPv4 addresses. */
  readonly nameservers?: readonly string[];
}

export interface StartProcess {
  readonly command: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  /** Undefined means the user's home. */
  readonly cwd: string | undefined;
  /** Undefined means the template's default user. */
  readonly user: string | undefined;
  readonly terminal: TerminalSize | undefined;
  readonly stdin: boolean;
}

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/**
 * Every method throws WrennErrors: `guest_unreachable`, `guest_protocol`, `deadline_exceeded`, the reason of
 * its signal, and what the guest says of the request itself.
 */
export interface EnvdClient extends FileTransfers {
  waitUntilHealthy(timeoutMs: number, signal: AbortSignal): Promise<void>;
  /** Hands over the access token, the environment and the time. May be repeated. */
  init(settings: GuestInit, signal: AbortSignal): Promise<void>;
  /** Events at the reader's pace, the start first. Leaving the stream does not end the process. */
  startProcess(process: StartProcess, signal: AbortSignal): AsyncIterable<ProcessEvent>;
  /**
   * Settles when the process's stdin has taken the bytes, however long that takes. False if the process has
   * closed it or is gone.
   */
  sendInput(pid: number, kind: 'stdin' | 'pty', bytes: Uint8Array, signal: AbortSignal): Promise<boolean>;
  closeStdin(pid: number, signal: AbortSignal): Promise<void>;
  sendSignal(pid: number, signalNumber: number, signal: AbortSignal): Promise<void>;
  resizeTerminal(pid: number, size: TerminalSize, signal: AbortSignal): Promise<void>;
  stat(path: string, user: string | undefined, signal: AbortSignal): Promise<EntryInfo>;
  list(path: string, depth: number, user: string | undefined, signal: AbortSignal): Promise<EntryInfo[]>;
  makeDirectory(path: string, user: string | undefined, signal: AbortSignal): Promise<EntryInfo>;
  remove(path: string, user: string | undefined, signal: AbortSignal): Promise<void>;
  /**
   * Makes the guest ready for a snapshot: everything loaded, little memory in use, files on their drives. It goes on as
   * before, so the snapshot is to be taken right after. Takes some seconds at most, and this client's idle connections
   * with it: no clone is to find them open.
   */
  quiesce(signal: AbortSignal): Promise<void>;
  /** Ends every connection. Idempotent. */
  close(): void;
}

/** A listing of some 50,000 entries; an event of a process is far smaller. */
const MESSAGE_MAX_BYTES = 16 * 1024 * 1024;
const ANSWER_MAX_BYTES = 64 * 1024;
/** Many guests at once on a loaded host are slow. The kernel of one whose agent knows of no datagrams refuses them at once. */
const SHORT_INIT_TIMEOUT_MS = 3_000;
/** It is applied right behind its acknowledgement. */
const SHORT_INIT_LISTEN_MS = 10_000;
const IDLE_CONNECTIONS = 4;
/** A guest with an open connection is never idle: it is asked each second whether it is there, and its agent looks at it. */
const IDLE_CONNECTION_MS = 10_000;
/** How often a silent process's stream shows that the guest is still there. */
export const KEEPALIVE_INTERVAL_S = 30;

export function createEnvdClient(options: EnvdClientOptions): EnvdClient {
  const { host, port = ENVD_PORT, accessToken, requestTimeoutMs, stallMs } = options;
  const { idleConnectionMs = IDLE_CONNECTION_MS } = options;
  // How many connections there may be is bounded by how many streams a sandbox may have.
  const agent = new Agent({
    keepAlive: true,
    maxFreeSockets: IDLE_CONNECTIONS,
    scheduling: 'lifo',
    // Of sockets that nobody uses; a stream may say nothing for as long as it likes.
    timeout: idleConnectionMs,
  });
  const withToken: Interceptor = (next) => (request) => {
    request.header.set('X-Access-Token', accessToken);
    return next(request);
  };
  const transport = createConnectTransport({
    httpVersion: '1.1',
    baseUrl: `http://${host}:${port}`,
    acceptCompression: [],
    readMaxBytes: MESSAGE_MAX_BYTES,
    interceptors: [withToken],
    nodeOptions: { agent },
  });
  const processes = createClient(Process, transport);
  const filesystem = createClient(Filesystem, transport);

  const asUser = (user: string | undefined): Record<string, string> =>
    user === undefined ? {} : { Authorization: `Basic ${Buffer.from(`${user}:`).toString('base64')}` };
  const byPid = (pid: number) => create(ProcessSelectorSchema, { selector: { case: 'pid', value: pid } });

  const ask = async <T>(signal: AbortSignal, call: (timeoutMs: number) => Promise<T>): Promise<T> => {
    try {
      return await call(requestTimeoutMs);
    } catch (error) {
      throw fromGuest(error, signal);
    }
  };
  const entryOf = (entry: EntryInfo | undefined): EntryInfo => {
    if (entry === undefined) throw misbehaved('an answer has no entry');
    return entry;
  };

  /** Of the last settings that were handed over in a datagram. */
  let acknowledged: Acknowledged | undefined;

  /** A request of envd's own, outside of its RPCs, whose answer has nothing in it. */
  const post = (
    path: string,
    what: string,
    fields: object,
    token: string,
    signal: AbortSignal,
  ): Promise<void> => {
    const body = Buffer.from(JSON.stringify(fields));
    return withDeadline(what, requestTimeoutMs, signal, async (limited) => {
      const answer = await sendHttp({
        host,
        port,
        agent,
        method: 'POST',
        path,
        headers: {
          'Content-Type': 'application/json',
          // Of a stated length envd reads it faster: /init is the first request of every sandbox.
          'Content-Length': String(body.length),
          'X-Access-Token': token,
        },
        body,
        stallMs: requestTimeoutMs,
        signal: limited,
      });
      const text = await readText(answer, ANSWER_MAX_BYTES, requestTimeoutMs, limited);
      if (answer.status === 204) return;
      throw misbehaved(`it answered ${path} with status ${answer.status} (${guestText(text)})`);
    });
  };

  async function* startProcess(process: StartProcess, signal: AbortSignal): AsyncGenerator<ProcessEvent> {
    const [cmd = '', ...args] = process.command;
    const { envs, cwd, terminal, stdin } = process;
    const request = {
      process: { cmd, args, envs, ...(cwd === undefined ? {} : { cwd }) },
      ...(terminal === undefined ? {} : { pty: { size: terminal } }),
      stdin,
    };
    const headers = { ...asUser(process.user), 'Keepalive-Ping-Interval': String(KEEPALIVE_INTERVAL_S) };
    try {
      for await (const { event } of processes.start(request, { signal, headers })) {
        if (event !== undefined) yield event;
      }
    } catch (error) {
      throw fromGuest(error, signal);
    }
  }

  return {
    ...createFileTransfers({ host, port, agent, accessToken, stallMs }),
    waitUntilHealthy: (timeoutMs, signal) => waitUntilHealthy({ host, port, timeoutMs, signal }),
    init: async (settings, signal) => {
      const body = {
        accessToken,
        envVars: settings.envs,
        defaultUser: settings.defaultUser,
        defaultWorkdir: settings.defaultWorkdir,
        timestamp: new Date().toISOString(),
        // Absent where not given: E2B's envd and snapshots of older guests know neither.
        replaceEnvs: settings.replaceEnvs,
        identity: settings.identity === undefined ? undefined : identityJson(settings.identity),
      };
      const token = settings.previousAccessToken ?? accessToken;
      const { onRefused } = settings;
      if (onRefused !== undefined) {
        acknowledged?.close();
        acknowledged = await sendShortInit({
          host,
          port,
          token,
          body: JSON.stringify(body),
          timeoutMs: Math.min(requestTimeoutMs, SHORT_INIT_TIMEOUT_MS),
          listenMs: SHORT_INIT_LISTEN_MS,
          onRefused: (why) =>
            onRefused(misbehaved(`it did not become a machine of its own: ${guestText(why)}`)),
          signal,
        });
        if (acknowledged !== undefined) return;
      }
      await post('/init', 'Giving the guest its settings', body, token, signal);
    },
    quiesce: (signal) => {
      for (const socket of Object.values(agent.freeSockets).flat()) socket?.destroy();
      return post('/quiesce', 'Making the guest ready for a snapshot', {}, accessToken, signal);
    },
    startProcess,
    sendInput: async (pid, kind, bytes, signal) => {
      try {
        await processes.sendInput(
          { process: byPid(pid), input: { input: { case: kind, value: bytes } } },
          { signal },
        );
        return true;
      } catch (error) {
        const { code } = ConnectError.from(error);
        const takesNoMore = code === Code.NotFound || code === Code.FailedPrecondition;
        if (takesNoMore && !signal.aborted) return false;
        throw fromGuest(error, signal);
      }
    },
    closeStdin: async (pid, signal) => {
      await ask(signal, (timeoutMs) => processes.closeStdin({ process: byPid(pid) }, { signal, timeoutMs }));
    },
    sendSignal: async (pid, signalNumber, signal) => {
      await ask(signal, (timeoutMs) =>
        processes.sendSignal({ process: byPid(pid), signal: signalNumber }, { signal, timeoutMs }),
      );
    },
    resizeTerminal: async (pid, size, signal) => {
      await ask(signal, (timeoutMs) =>
        processes.update({ process: byPid(pid), pty: { size } }, { signal, timeoutMs }),
      );
    },
    stat: (path, user, signal) =>
      ask(signal, async (timeoutMs) => {
        const { entry } = await filesystem.stat({ path }, { signal, timeoutMs, headers: asUser(user) });
        return entryOf(entry);
      }),
    list: (path, depth, user, signal) =>
      ask(signal, async (timeoutMs) => {
        const options = { signal, timeoutMs, headers: asUser(user) };
        const { entries } = await filesystem.listDir({ path, depth }, options);
        return entries;
      }),
    makeDirectory: (path, user, signal) =>
      ask(signal, async (timeoutMs) => {
        const { entry } = await filesystem.makeDir({ path }, { signal, timeoutMs, headers: asUser(user) });
        return entryOf(entry);
      }),
    remove: async (path, user, signal) => {
      await ask(signal, (timeoutMs) =>
        filesystem.remove({ path }, { signal, timeoutMs, headers: asUser(user) }),
      );
    },
    close: () => {
      acknowledged?.close();
      agent.destroy();
    },
  };
}

function identityJson({ hostname, machineId, entropy, nameservers }: GuestIdentity): object {
  return {
    hostname,
    machineId,
    nameservers,
    entropy: entropy === undefined ? undefined : Buffer.from(entropy).toString('base64'),
  };
}
