/**
 * What a microVM's memory differs by, put back while Firecracker loads the rest. It maps the memory, restores the
 * processors and then the devices, all in one call, and receives packets from the moment that the call is done, whether
 * or not the guest stands still: its queues must be what the state is of by then. So Firecracker is held where it opens
 * the layer, the first thing that it does for a device that is written to: by then the memory is there, and no device
 * has looked at it. The new generation id of the guest is written afterwards, and stays.
 */
import type { ProcessIdentity } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { joinSignals } from '../../signals/signals.ts';
import type { MicrovmSpec } from '../driver.ts';
import { drivePaths } from '../drives.ts';
import { holdFile } from '../held-file.ts';
import { applyDelta } from '../memory/delta.ts';
import { findMemory } from './memory-place.ts';

/** The guest stands still all the while: who is told of a failure ends it. */
export async function loadWithDelta(
  load: (signal: AbortSignal) => Promise<void>,
  { drives, memoryMib }: MicrovmSpec,
  process: ProcessIdentity,
  deltaPath: string,
  signal: AbortSignal,
): Promise<void> {
  const [layer] = drivePaths(drives, 'writable');
  if (layer === undefined) throw new WrennError('internal', 'A delta needs a drive that is written to.');
  const held = await holdFile(layer, signal);
  const failed = new AbortController();
  const joined = joinSignals(signal, failed.signal);
  let isPut = false;
  const putting = held.asked.then(async () => {
    await applyDelta(deltaPath, await findMemory(process, memoryMib * 1024 * 1024), joined.signal);
    isPut = true;
    await held.letThrough();
  });
  const loading = load(joined.signal).then(() => {
    if (!isPut) throw new WrennError('vmm_api_error', 'Firecracker did not wait for the memory.');
  });
  try {
    await Promise.all([putting, loading]);
  } finally {
    failed.abort();
    held.close();
    // Nothing of it is at work any more when the process is ended.
    await Promise.allSettled([putting, loading]);
    joined.release();
  }
}
