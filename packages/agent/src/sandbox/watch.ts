/** What ends a sandbox although nobody has asked for it: its VMM dies, or its guest is not what it was to become. */
import { WrennError } from '@wrenn/protocol';
import { withinMs } from '../signals/signals.ts';
import type { Microvm } from '../vmm/driver.ts';
import type { SandboxDeps } from './deps.ts';
import { endReason, panicOf } from './end-reason.ts';
import type { Holdings } from './sandbox-parts.ts';

export interface Watch {
  /** Until it is of no use any more, which is asked before anything is done. */
  over(held: Holdings, isOfNoUse: () => boolean): void;
  /** The guest has said, after its answer, that it did not take its settings. */
  refused(error: WrennError): void;
}

const CONSOLE_LINES_KEPT = 50;
const CONSOLE_LINES_LOGGED = 20;
const CONSOLE_TIMEOUT_MS = 1_000;

/** `fail` ends the sandbox with that reason; `isEnding` tells whether it is at its end already. */
export function createWatch(
  deps: SandboxDeps,
  id: string,
  isEnding: () => boolean,
  fail: (why: string) => void,
): Watch {
  const { log, observer } = deps;

  const refused = ({ message }: WrennError): void => {
    if (isEnding()) return;
    log.warn({ sandboxId: id, message }, 'a guest did not take its settings');
    observer.failed();
    fail(message);
  };

  return {
    refused,
    over: (held, isOfNoUse) => {
      held.refused?.addEventListener('abort', () => {
        if (!isOfNoUse()) refused(WrennError.from(held.refused?.reason));
      });
      void held.microvm.exited.then(async ({ message: howEnded, log: vmmLog }) => {
        if (isOfNoUse()) return;
        const [why, console] = await Promise.all([endReason(deps, id, howEnded), lastLinesOf(held.microvm)]);
        if (isOfNoUse()) return;
        const message = `${why}${panicOf(console)}`;
        const consoleTail = console.slice(-CONSOLE_LINES_LOGGED);
        log.warn({ sandboxId: id, message, vmmLog, consoleTail }, 'the VMM ended by itself');
        observer.failed();
        fail(message);
      });
    },
  };
}

/** Of its console, to be kept when it is gone. Never rejects. */
export async function lastLinesOf(microvm: Microvm | undefined): Promise<string[]> {
  if (microvm === undefined) return [];
  try {
    return await withinMs(CONSOLE_TIMEOUT_MS, 'Reading the console', microvm.consoleTail(CONSOLE_LINES_KEPT));
  } catch {
    return ['(the console could not be read)'];
  }
}
