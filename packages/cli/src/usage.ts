/** What is wrong with how the program was called: told as every other error is, with where to look. */
import { WrennError } from '@wrenn/protocol';
import type { Command, CommanderError } from 'commander';

/** Commander's own lines are not written: whoever runs the program tells its error once. */
export function withoutOwnErrors(program: Command): Command {
  return program.exitOverride().configureOutput({ outputError: () => {} });
}

/** Undefined where help was asked for, or is the answer to a command that lacks the next word. */
export function usageError(
  program: Command,
  error: CommanderError,
  words: readonly string[],
): WrennError | undefined {
  if (error.exitCode === 0 || error.code === 'commander.help') return undefined;
  const message = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
  const whole = /[.?!)]$/.test(message) ? message : `${message}.`;
  return new WrennError('invalid_argument', whole.charAt(0).toUpperCase() + whole.slice(1), {
    hint: `${commandOf(program, words)} --help`,
  });
}

/** As far as there is one. */
function commandOf(program: Command, words: readonly string[]): string {
  const path = [program.name()];
  let command: Command | undefined = program;
  for (const word of words) {
    command = command.commands.find((each) => each.name() === word);
    if (command === undefined) break;
    path.push(word);
  }
  return path.join(' ');
}
