/** What becomes of the program where its stdout takes no more: the reader has left, or the disk is full. */
import { WrennError } from '@wrenn/protocol';

type Action = (error: NodeJS.ErrnoException) => void;

interface Outputs {
  readonly stdout: NodeJS.EventEmitter;
  readonly stderr: NodeJS.EventEmitter;
}

let inTheMiddle: Action | undefined;

/** For the start of the program. What is told on stderr alone can do without its reader, and without a place on the disk. */
export function watchOutputs({ stdout, stderr }: Outputs, otherwise: Action): void {
  stdout.on('error', (error: NodeJS.ErrnoException) => (inTheMiddle ?? otherwise)(error));
  stderr.on('error', () => {});
}

/** For whoever has something to take away first. Returns what makes it as it was. */
export function onLostOutput(action: Action): () => void {
  inTheMiddle = action;
  return () => {
    inTheMiddle = undefined;
  };
}

/** The reader has left (`wrenn … | head`): a program ends by SIGPIPE then, and says nothing. */
export function hasReaderLeft({ code }: NodeJS.ErrnoException): boolean {
  return code === 'EPIPE';
}

export function lostOutput(cause: NodeJS.ErrnoException): WrennError {
  return cause.code === 'ENOSPC'
    ? new WrennError('disk_full', 'The output cannot be written: its disk is full.', { cause })
    : new WrennError('internal', `The output cannot be written (${cause.code ?? cause.message}).`, { cause });
}
