/**
 * How V8 collects garbage in the API's process, which may be set once it runs. Node reads each 64 KiB that pass through
 * the edge into a buffer of its own, outside of the heap; V8 counts those bytes as if they were in it. With a heap of
 * some 35 MiB it soon took every 20 MiB that passed for a reason to look through all of it, some 20 ms each time: half of
 * what the API had to do for a download.
 */
import { setFlagsFromString } from 'node:v8';

/** For a process that is the API and nothing else. */
export function tuneHeap(): void {
  // All of it once the heap, buffers included, is two and a half times what was in use: still below 100 MiB.
  setFlagsFromString('--heap-growing-percent=150');
  // Of what is young hardly anything lives: waiting for helpers to find that out takes longer than to do so.
  setFlagsFromString('--no-parallel-scavenge');
}
