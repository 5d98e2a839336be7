/** For commands that take several names: one that fails does not keep the others from being done. */
import { fromConnectError } from '@wrenn/agent';
import { EXIT, exitCodeOf } from './exit-codes.ts';
import { printError, printJson } from './output.ts';

/**
 * Acts on one after the other, and tells of each as soon as it is done; as JSON of all that were, at the end. Resolves with
 * the exit code, that of the first failure.
 */
export async function eachInTurn<T>(
  names: readonly string[],
  json: boolean,
  act: (name: string) => Promise<T>,
  lineOf: (done: T) => string,
): Promise<number> {
  const all: T[] = [];
  let exitCode: number = EXIT.ok;
  try {
    for (const name of names) {
      try {
        const done = await act(name);
        all.push(done);
        if (!json) process.stdout.write(`${lineOf(done)}\n`);
      } catch (thrown) {
        const error = fromConnectError(thrown);
        // The others would fail in the same way.
        if (error.code === 'agent_not_running') throw error;
        printError(error, json);
        if (exitCode === EXIT.ok) exitCode = exitCodeOf(error.kind);
      }
    }
  } finally {
    if (json) printJson(all);
  }
  return exitCode;
}
