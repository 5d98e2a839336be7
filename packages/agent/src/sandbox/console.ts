/** The guest's console as a stream: what there is, then what comes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from '../signals/signals.ts';
import type { Sandbox } from './sandbox-parts.ts';

const TAIL_LINES = 2_000;
const POLL_MS = 250;

/** Ends when the sandbox does. Of a flood faster than it is read, the middle is left out. */
export async function* followConsole(
  sandbox: Sandbox,
  follow: boolean,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  let seen: readonly string[] = [];
  for (;;) {
    const { state } = sandbox.view();
    const lines = await sandbox.consoleTail(TAIL_LINES);
    const fresh = newLines(seen, lines);
    if (fresh.length > 0) yield fresh.map((line) => `${line}\n`).join('');
    seen = lines;
    if (!follow || state === 'destroying' || state === 'failed') return;
    throwIfAborted(signal);
    await sleep(POLL_MS, undefined, { signal });
  }
}

/**
 * Which lines of `now` come after those of `before`, both being the last lines of one growing text: the
 * longest end of `before` that `now` begins with is what they share.
 */
export function newLines(before: readonly string[], now: readonly string[]): readonly string[] {
  if (before.length === 0) return now;
  // How much of a prefix of `now` is matched at each place (Knuth, Morris, Pratt): linear, whatever the guest prints.
  const borders = bordersOf(now);
  let matched = 0;
  for (const line of before.slice(-now.length)) {
    while (matched > 0 && (matched === now.length || now[matched] !== line))
      matched = borders[matched - 1] ?? 0;
    if (now[matched] === line) matched++;
  }
  return now.slice(matched);
}

function bordersOf(lines: readonly string[]): number[] {
  const borders: number[] = [];
  let length = 0;
  lines.forEach((line, i) => {
    if (i === 0) {
      borders.push(0);
      return;
    }
    while (length > 0 && lines[length] !== line) length = borders[length - 1] ?? 0;
    if (lines[length] === line) length++;
    borders.push(length);
  });
  return borders;
}
