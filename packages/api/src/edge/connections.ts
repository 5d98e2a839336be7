/** What is open to each sandbox, so that it can be counted, and cut when the sandbox is gone. */
import { Agent } from 'node:http';
import type { ServerHttp2Stream } from 'node:http2';
import type { Socket, TcpSocketConnectOpts } from 'node:net';
import { connectToGuest } from './guest-socket.ts';

export interface Connections {
  /** Keeps idle connections to that sandbox, which end with it. */
  agentOf(sandboxId: string): Agent;
  /** For a request that waits until its sandbox is found, and maybe woken. Undefined where too many do; else as below. */
  wait(sandboxId: string): (() => void) | undefined;
  /** Undefined where there are too many. `cut` is called when the sandbox is gone; call the result once it is over. */
  open(sandboxId: string, cut: () => void): (() => void) | undefined;
  cutAll(sandboxId: string): void;
  close(): void;
  count(): number;
}

interface Entry {
  readonly agent: Agent;
  readonly cuts: Set<() => void>;
}

export interface ConnectionLimits {
  readonly perSandbox: number;
  readonly total: number;
  readonly idleMs: number;
}

export function createConnections({ perSandbox, total, idleMs }: ConnectionLimits): Connections {
  const entries = new Map<string, Entry>();
  const waiting = new Map<string, number>();
  let [open, waits] = [0, 0];

  const entryOf = (sandboxId: string): Entry => {
    const known = entries.get(sandboxId);
    if (known !== undefined) return known;
    const agent = new GuestAgent({
      keepAlive: true,
      keepAliveMsecs: 30_000,
      maxFreeSockets: 16,
      timeout: idleMs,
    });
    const entry = { agent, cuts: new Set<() => void>() };
    entries.set(sandboxId, entry);
    return entry;
  };
  const forget = (sandboxId: string, entry: Entry): void => {
    const isIdle = entry.cuts.size === 0 && Object.keys(entry.agent.freeSockets).length === 0;
    if (isIdle && entries.get(sandboxId) === entry) entries.delete(sandboxId);
  };

  return {
    agentOf: (sandboxId) => entryOf(sandboxId).agent,
    wait: (sandboxId) => {
      const count = waiting.get(sandboxId) ?? 0;
      if (count >= perSandbox || waits >= total) return undefined;
      waiting.set(sandboxId, count + 1);
      waits += 1;
      return () => {
        const left = (waiting.get(sandboxId) ?? 1) - 1;
        if (left === 0) waiting.delete(sandboxId);
        else waiting.set(sandboxId, left);
        waits -= 1;
      };
    },
    open: (sandboxId, cut) => {
      const entry = entryOf(sandboxId);
      if (entry.cuts.size >= perSandbox || open >= total) return undefined;
      entry.cuts.add(cut);
      open += 1;
      return () => {
        if (!entry.cuts.delete(cut)) return;
        open -= 1;
        forget(sandboxId, entry);
      };
    },
    cutAll: (sandboxId) => {
      const entry = entries.get(sandboxId);
      if (entry === undefined) return;
      for (const cut of [...entry.cuts]) cut();
      entry.agent.destroy();
      entries.delete(sandboxId);
    },
    close: () => {
      for (const { agent, cuts } of entries.values()) {
        for (const cut of [...cuts]) cut();
        agent.destroy();
      }
      entries.clear();
    },
    count: () => open,
  };
}

class GuestAgent extends Agent {
  override createConnection(options: object): Socket {
    return connectToGuest(options as TcpSocketConnectOpts);
  }
}

/** A client that takes nothing hears nothing of it, either: what holds the stream open then is given up. */
const RESET_MS = 2_000;

export function resetStream(stream: ServerHttp2Stream, code: number): void {
  stream.close(code);
  const timer = setTimeout(() => stream.destroy(), RESET_MS);
  stream.once('close', () => clearTimeout(timer));
}

/** Not the clean end that a client could take for the whole of an answer. */
export function reset(socket: Socket | null | undefined): void {
  if (socket === null || socket === undefined || socket.destroyed) return;
  if (typeof socket.resetAndDestroy === 'function' && !('encrypted' in socket)) socket.resetAndDestroy();
  else socket.destroy();
}
