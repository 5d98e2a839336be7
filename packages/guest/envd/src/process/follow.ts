/** The events of one process for one follower: start, data, keep-alives while it is silent, end. */
import { create } from '@bufbuild/protobuf';
import { type ProcessEvent, ProcessEventSchema } from '@wrenn/protocol/process';
import type { ExitStatus } from './exit-status.ts';
import type { Output, RunningProcess } from './running-process.ts';

const DEFAULT_KEEPALIVE_S = 90;
/** One timer's longest wait is 2^31 - 1 ms. */
const KEEPALIVE_MAX_S = 24 * 60 * 60;

/** From the header `Keepalive-Ping-Interval`, in seconds; what is no sensible number counts as absent. */
export function keepaliveMs(headers: Headers): number {
  const seconds = Number(headers.get('Keepalive-Ping-Interval') ?? '');
  const sensible = Number.isInteger(seconds) && seconds > 0;
  return Math.min(sensible ? seconds : DEFAULT_KEEPALIVE_S, KEEPALIVE_MAX_S) * 1000;
}

/**
 * Ends when the process does. When `signal` aborts it throws the signal's reason; leaving, by this or
 * by returning the generator, has no effect on the process.
 */
export async function* followProcess(
  process: RunningProcess,
  idleMs: number,
  signal: AbortSignal,
): AsyncGenerator<ProcessEvent> {
  const subscription = process.subscribe();
  const leave = () => subscription.close();
  signal.addEventListener('abort', leave, { once: true });
  try {
    yield startEvent(process.pid);
    for (;;) {
      signal.throwIfAborted();
      const next = await subscription.next(idleMs);
      switch (next.kind) {
        case 'item':
          yield dataEvent(next.item);
          break;
        case 'idle':
          yield create(ProcessEventSchema, { event: { case: 'keepalive', value: {} } });
          break;
        case 'ended':
          yield endEvent(await process.ended);
          return;
        case 'closed':
          signal.throwIfAborted();
          return;
      }
    }
  } finally {
    signal.removeEventListener('abort', leave);
    leave();
  }
}

export function startEvent(pid: number): ProcessEvent {
  return create(ProcessEventSchema, { event: { case: 'start', value: { pid } } });
}

function dataEvent({ kind, bytes }: Output): ProcessEvent {
  return create(ProcessEventSchema, {
    event: { case: 'data', value: { output: { case: kind, value: bytes } } },
  });
}

export function endEvent(exit: ExitStatus): ProcessEvent {
  const { error, ...rest } = exit;
  return create(ProcessEventSchema, {
    event: { case: 'end', value: error === undefined ? rest : { ...rest, error } },
  });
}
