/**
 * For commands whose answer is all that anybody learns of what they have made: what is interrupted, or has nobody left to
 * read it, is taken away again. The agent goes on with what it was asked for whether its caller is there or not. Where it does
 * not answer, one more signal ends the command all the same.
 */
import { fromConnectError } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import { catchInterrupts } from './interrupts.ts';

export interface Making<T> {
  /** Not aborted by an interrupt: its answer says what there is to take away. */
  make(): Promise<T>;
  /** Rejects if it could not be told. */
  tell(made: T): Promise<void>;
  takeAway(made: T): Promise<void>;
  /** What it is known by, and the command that takes it away. */
  nameOf(made: T): { readonly name: string; readonly command: string };
  /** For people who wait. */
  say(message: string): void;
}

const ENDING = 'what is made is taken away again as soon as it is there (once more leaves it) …';

/** Resolves with the exit code: 0, or 128 plus the number of the signal that ended it. */
export async function makeAndTell<T>(making: Making<T>): Promise<number> {
  const interrupts = catchInterrupts();
  interrupts.onEnding = () => making.say(ENDING);
  try {
    const made = await making.make();
    try {
      interrupts.signal.throwIfAborted();
      await making.tell(made);
      return 0;
    } catch (error) {
      await takeAway(making, made);
      const exitCode = interrupts.exitCode();
      if (exitCode !== undefined) return exitCode;
      throw interrupts.signal.aborted ? interrupts.signal.reason : error;
    }
  } finally {
    interrupts.release();
  }
}

async function takeAway<T>(making: Making<T>, made: T): Promise<void> {
  try {
    await making.takeAway(made);
  } catch (thrown) {
    const { code, message } = fromConnectError(thrown);
    const { name, command } = making.nameOf(made);
    throw new WrennError(code, `${name} was made, and could not be taken away again: ${message}`, {
      hint: command,
      cause: thrown,
    });
  }
}
