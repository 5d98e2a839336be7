/** Why a QEMU process ended, in one sentence. */
import { constants } from 'node:os';
import { z } from 'zod';
import { printable } from '../printable.ts';
import type { ExitStatus } from '../wrapped-process.ts';
import type { QmpEvent } from './qmp.ts';

const shutdownSchema = z.object({ reason: z.string() });

/** QEMU's ShutdownCause, as the SHUTDOWN event tells it. */
const CAUSES: ReadonlyMap<string, string> = new Map([
  ['guest-shutdown', 'The guest powered itself off.'],
  ['guest-reset', 'The guest rebooted, or its kernel panicked.'],
  ['guest-panic', "The guest's kernel panicked."],
  ['subsystem-reset', 'The guest reset itself.'],
  ['host-error', 'QEMU ended because of an error on the host.'],
  ['host-qmp-quit', 'QEMU was told to quit.'],
  ['host-signal', 'QEMU was ended by a signal.'],
]);

/** The sentence for an event that announces the end; undefined for any other. */
export function announcedEnd({ name, data }: QmpEvent): string | undefined {
  if (name === 'GUEST_PANICKED') return CAUSES.get('guest-panic');
  if (name !== 'SHUTDOWN') return undefined;
  const parsed = shutdownSchema.safeParse(data);
  if (!parsed.success) return 'QEMU shut down.';
  const { reason } = parsed.data;
  return CAUSES.get(reason) ?? `QEMU shut down: ${printable(reason, 40)}.`;
}

export function describeExit(status: ExitStatus, announced: string | undefined): string {
  // A wrapper tells of a signal as shells do.
  const number = status.code === null ? undefined : status.code - 128;
  const signal =
    status.signal ?? Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
  if (signal !== undefined) return `QEMU was killed by ${signal}.`;
  if (announced !== undefined) return announced;
  if (status.code === null) return 'QEMU ended; how is not known, since its parent had gone before.';
  if (status.code === 0) return 'QEMU ended.';
  return `QEMU ended with exit code ${status.code}.`;
}
