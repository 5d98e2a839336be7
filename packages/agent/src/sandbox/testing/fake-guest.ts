/** A guest's agent that answers at once, and what a command says in it. */
import { create } from '@bufbuild/protobuf';
import { EntryInfoSchema, FileType } from '@wrenn/protocol/filesystem';
import { type ProcessEvent, ProcessEventSchema } from '@wrenn/protocol/process';
import type { EnvdClient } from '../../envd-client/client.ts';
import { abortReason, throwIfAborted } from '../../signals/signals.ts';
import type { Ledger } from './ledger.ts';

export function fakeGuest(world: Ledger, address: string): EnvdClient {
  let open = true;
  const check = (what: string): void => {
    if (!open) world.violations.push(`${what} on the closed guest ${address}`);
  };
  const entry = (path: string) =>
    create(EntryInfoSchema, { path, name: path, type: FileType.FILE, size: 3n, mode: 0o644 });
  return {
    waitUntilHealthy: async (_timeoutMs, signal) => {
      await world.disturb('health', signal);
      throwIfAborted(signal);
    },
    init: async ({ envs, identity, onRefused }, signal) => {
      check('init');
      if (onRefused !== undefined) world.onAnsweredFirst(onRefused);
      await world.disturb('init', signal);
      throwIfAborted(signal);
      const newest = world.settings.get(address)?.toldAtMs ?? Number.NEGATIVE_INFINITY;
      const toldAtMs = world.nowMs();
      if (toldAtMs <= newest && identity?.entropy === undefined) return;
      world.settings.set(address, { toldAtMs, envs });
    },
    quiesce: async (signal) => {
      check('quiesce');
      await world.disturb('quiesce', signal);
      throwIfAborted(signal);
    },
    startProcess: async function* ({ command }, signal) {
      check('exec');
      const aborted = new Promise<never>((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(abortReason(signal)), { once: true });
      });
      aborted.catch(() => {});
      const events = world.onExec(command)[Symbol.asyncIterator]();
      for (;;) {
        const next = await Promise.race([events.next(), aborted]);
        if (next.done === true) return;
        yield next.value;
      }
    },
    sendInput: async (pid, _kind, bytes, signal) => {
      await world.disturb('sendInput', signal);
      world.inputs.push({ pid, bytes });
      return true;
    },
    closeStdin: async (pid) => {
      world.inputs.push({ pid, bytes: new Uint8Array() });
    },
    sendSignal: async (pid, signal) => {
      world.signalled.push({ pid, signal });
    },
    resizeTerminal: async () => {},
    stat: async (path) => entry(path),
    list: async (path) => [entry(path)],
    makeDirectory: async (path) => entry(path),
    remove: async () => {},
    readFile: async (path) =>
      (async function* () {
        yield Buffer.from(path);
      })(),
    writeFile: async (path, _user, source) => {
      for await (const bytes of source) world.inputs.push({ pid: 0, bytes });
      return path;
    },
    close: () => {
      open = false;
    },
  };
}

export async function* echo(command: readonly string[]): AsyncGenerator<ProcessEvent> {
  yield startEvent(100);
  yield create(ProcessEventSchema, {
    event: {
      case: 'data',
      value: { output: { case: 'stdout', value: Buffer.from(command.slice(1).join(' ')) } },
    },
  });
  yield endEvent(0);
}

export function startEvent(pid: number): ProcessEvent {
  return create(ProcessEventSchema, { event: { case: 'start', value: { pid } } });
}

export function endEvent(exitCode: number): ProcessEvent {
  const value = { exitCode, exited: true, status: `exit status ${exitCode}` };
  return create(ProcessEventSchema, { event: { case: 'end', value } });
}
