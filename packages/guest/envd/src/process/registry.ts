/** The processes of this agent: those that run, and for a while how the others ended. */
import { Code, ConnectError } from '@connectrpc/connect';
import type { ProcessSelector } from '@wrenn/protocol/process';
import type { ExitStatus } from './exit-status.ts';
import type { RunningProcess } from './running-process.ts';

/** What is kept of a process that has ended. */
export interface EndedProcess {
  readonly pid: number;
  readonly tag: string | undefined;
  readonly exit: ExitStatus;
}

export interface ProcessRegistry {
  add(process: RunningProcess): void;
  list(): RunningProcess[];
  /** Throws `not_found` unless it runs. */
  running(selector: ProcessSelector | undefined): RunningProcess;
  /** Throws `not_found` unless it runs or ended lately. */
  runningOrEnded(selector: ProcessSelector | undefined): RunningProcess | EndedProcess;
}

export const EXIT_RETENTION_MS = 30_000;
/** A loop of short commands must not pile up exits: the oldest are forgotten first. */
export const ENDED_MAX = 1024;

export function createProcessRegistry(): ProcessRegistry {
  const running = new Map<number, RunningProcess>();
  const ended = new Map<number, EndedProcess>();

  function forget(process: EndedProcess): void {
    if (ended.get(process.pid) === process) ended.delete(process.pid);
  }

  function retire(process: RunningProcess, exit: ExitStatus): void {
    if (running.get(process.pid) === process) running.delete(process.pid);
    const kept: EndedProcess = { pid: process.pid, tag: process.tag, exit };
    ended.delete(kept.pid);
    ended.set(kept.pid, kept);
    for (const oldest of ended.values()) {
      if (ended.size <= ENDED_MAX) break;
      forget(oldest);
    }
    setTimeout(() => forget(kept), EXIT_RETENTION_MS).unref();
  }

  return {
    add: (process) => {
      // A pid or a tag that is used anew no longer means the process that had it before.
      for (const old of [...ended.values()]) {
        if (old.pid === process.pid || (old.tag !== undefined && old.tag === process.tag)) forget(old);
      }
      running.set(process.pid, process);
      void process.ended.then((exit) => retire(process, exit));
    },
    list: () => [...running.values()],
    running: (selector) => {
      const found = select(running, selector);
      if (found === undefined) throw notFound(selector);
      return found;
    },
    runningOrEnded: (selector) => {
      const found = select(running, selector) ?? select(ended, selector);
      if (found === undefined) throw notFound(selector);
      return found;
    },
  };
}

/** The newest of those that share a tag. */
function select<T extends { readonly tag: string | undefined }>(
  processes: ReadonlyMap<number, T>,
  selector: ProcessSelector | undefined,
): T | undefined {
  switch (selector?.selector.case) {
    case 'pid':
      return processes.get(selector.selector.value);
    case 'tag': {
      const tag = selector.selector.value;
      return [...processes.values()].findLast((process) => process.tag === tag);
    }
    default:
      throw new ConnectError('no process was selected: give its pid or its tag', Code.InvalidArgument);
  }
}

function notFound(selector: ProcessSelector | undefined): ConnectError {
  const { case: by, value } = selector?.selector ?? { case: undefined, value: undefined };
  return new ConnectError(`process with ${by} ${value} not found`, Code.NotFound);
}
