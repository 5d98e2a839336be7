/** What becomes of the program where its stdout takes no more: the reader has left, or the disk is full. */
import { EventEmitter } from 'node:events';
import { constants } from 'node:os';
import { WrennError } from '@wrenn/protocol';
import { EXIT } from './exit-codes.ts';

/** The exit code for it. */
export const READER_LEFT = EXIT.signalBase + constants.signals.SIGPIPE;

type Action = (error: NodeJS.ErrnoException) => void;

interface Outputs {
  readonly stdout: NodeJS.EventEmitter;
  readonly stderr: NodeJS.EventEmitter;
}

/** As with errors of Node's own: who listens decides, and where nobody does the program ends. */
const lost = new EventEmitter<{ output: [NodeJS.ErrnoException] }>();

/** For the start of the program. What is told on stderr alone can do without its reader, and without a place on the disk. */
export function watchOutputs({ stdout, stderr }: Outputs, otherwise: Action): void {
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (!lost.emit('output', error)) otherwise(error);
  });
  stderr.on('error', () => {});
}

/** For whoever has something to take away first. Returns what makes it as it was. */
export function onLostOutput(action: Action): () => void {
  lost.on('output', action);
  return () => lost.off('output', action);
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
