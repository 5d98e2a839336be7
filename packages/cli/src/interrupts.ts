/** What Ctrl-C and friends, and a reader that leaves, mean while a command runs in a sandbox. */
import { constants } from 'node:os';
import { WrennError } from '@wrenn/protocol';
import { EXIT } from './exit-codes.ts';
import { hasReaderLeft, lostOutput, onLostOutput } from './lost-output.ts';

/** `timeout` and others pass on what the terminal has sent to all, so that it comes twice. */
export const ONE_SIGNAL_MS = 300;

type Signal = 'SIGINT' | 'SIGTERM' | 'SIGHUP';

export interface Interrupts {
  /** Aborted by the second SIGINT, by SIGTERM or SIGHUP, and where stdout takes no more. Its reason is a WrennError. */
  readonly signal: AbortSignal;
  /** The first SIGINT is the command's: it is told here. */
  onFirst: () => void;
  /** The first signal that is to end the command, for whoever has to wait for something then. */
  onEnding: () => void;
  /** A later one: somebody does not want to wait. Ends the program at once, whatever that leaves behind, unless it is set. */
  onLater: (exitCode: number) => void;
  /** 128 plus the number of the signal that aborted; undefined when none did. A reader that has left is SIGPIPE. */
  readonly exitCode: () => number | undefined;
  /** Gives the signals, and the end of stdout, their usual meaning back. */
  release(): void;
}

export function catchInterrupts(): Interrupts {
  const controller = new AbortController();
  let exitCode: number | undefined;
  let interrupted = false;
  let endedAt: number | undefined;
  const abort = (name: Signal | 'SIGPIPE') => {
    exitCode ??= EXIT.signalBase + constants.signals[name];
    controller.abort(new WrennError('cancelled', `Ended by ${name}.`));
  };
  const end = (name: Signal) => {
    abort(name);
    if (endedAt === undefined) {
      endedAt = performance.now();
      interrupts.onEnding();
    } else if (performance.now() - endedAt > ONE_SIGNAL_MS) {
      interrupts.onLater(EXIT.signalBase + constants.signals[name]);
    }
  };
  const interrupts: Interrupts = {
    signal: controller.signal,
    onFirst: () => end('SIGINT'),
    onEnding: () => {},
    onLater: (code) => process.exit(code),
    exitCode: () => exitCode,
    release() {
      process.off('SIGINT', onInterrupt);
      process.off('SIGTERM', onTerminate);
      process.off('SIGHUP', onHangUp);
      forgetOutput();
    },
  };
  const onInterrupt = () => {
    // Once the command is being ended there is nobody else whose it could be.
    if (interrupted || endedAt !== undefined) end('SIGINT');
    else interrupts.onFirst();
    interrupted = true;
  };
  const onTerminate = () => end('SIGTERM');
  const onHangUp = () => end('SIGHUP');
  process.on('SIGINT', onInterrupt);
  process.on('SIGTERM', onTerminate);
  process.on('SIGHUP', onHangUp);
  const forgetOutput = onLostOutput((error) => {
    if (hasReaderLeft(error)) abort('SIGPIPE');
    else controller.abort(lostOutput(error));
  });
  return interrupts;
}
