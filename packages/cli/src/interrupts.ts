/** What Ctrl-C and friends, and a reader that leaves, mean while a command runs in a sandbox. */
import { constants } from 'node:os';
import { WrennError } from '@wrenn/protocol';
import { EXIT } from './exit-codes.ts';
import { hasReaderLeft, lostOutput, onLostOutput } from './lost-output.ts';

export interface Interrupts {
  /** Aborted by the second SIGINT, by SIGTERM or SIGHUP, and where stdout takes no more. Its reason is a WrennError. */
  readonly signal: AbortSignal;
  /** The first SIGINT is the command's: it is told here. */
  onFirst: () => void;
  /** 128 plus the number of the signal that aborted; undefined when none did. A reader that has left is SIGPIPE. */
  readonly exitCode: () => number | undefined;
  /** Gives the signals, and the end of stdout, their usual meaning back. */
  release(): void;
}

export function catchInterrupts(): Interrupts {
  const controller = new AbortController();
  let exitCode: number | undefined;
  let interrupted = false;
  const abort = (name: 'SIGINT' | 'SIGTERM' | 'SIGHUP' | 'SIGPIPE') => {
    exitCode ??= EXIT.signalBase + constants.signals[name];
    controller.abort(new WrennError('cancelled', `Ended by ${name}.`));
  };
  const interrupts: Interrupts = {
    signal: controller.signal,
    onFirst: () => abort('SIGINT'),
    exitCode: () => exitCode,
    release() {
      process.off('SIGINT', onInterrupt);
      process.off('SIGTERM', onTerminate);
      process.off('SIGHUP', onHangUp);
      forgetOutput();
    },
  };
  const onInterrupt = () => {
    if (interrupted) abort('SIGINT');
    else interrupts.onFirst();
    interrupted = true;
  };
  const onTerminate = () => abort('SIGTERM');
  const onHangUp = () => abort('SIGHUP');
  process.on('SIGINT', onInterrupt);
  process.on('SIGTERM', onTerminate);
  process.on('SIGHUP', onHangUp);
  const forgetOutput = onLostOutput((error) => {
    if (hasReaderLeft(error)) abort('SIGPIPE');
    else controller.abort(lostOutput(error));
  });
  return interrupts;
}
