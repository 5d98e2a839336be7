/** Clients that take nothing of what waits for them: each would hold its connection, and one to the guest, for ever. */
import type { ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';
import type { Socket } from 'node:net';

/**
 * `cut` is called when something has waited for so long without any of it being taken. An answer that says nothing is none
 * of that: what there was of it has been taken.
 */
export function whenStalled(
  to: ServerResponse | Http2ServerResponse | Socket,
  timeoutMs: number,
  cut: () => void,
): void {
  // Node's own time-out, which begins anew with whatever is read or written, and with each part of a long write.
  const written = 'stream' in to ? to.stream : to;
  written.setTimeout(timeoutMs);
  // Each time that it is over: a callback of `setTimeout` is called but once.
  written.on('timeout', () => {
    if (written.writableLength > 0) cut();
  });
}
