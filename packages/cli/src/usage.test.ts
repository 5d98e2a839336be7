import { Command, CommanderError } from 'commander';
import { expect, it, vi } from 'vitest';
import { usageError, withoutOwnErrors } from './usage.ts';

function build(): Command {
  const program = withoutOwnErrors(new Command('wrenn'));
  program.command('run').option('--json').argument('<command...>');
  const sandbox = program.command('sandbox');
  sandbox
    .command('get <id>')
    .option('--json', 'as JSON')
    .action(() => {});
  return program;
}

async function failure(...words: string[]): Promise<unknown> {
  const written = vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  try {
    const program = build();
    const error: unknown = await program.parseAsync(words, { from: 'user' }).catch((thrown) => thrown);
    if (!(error instanceof CommanderError)) return error;
    const told = usageError(program, error, words);
    return told === undefined
      ? written.mock.calls.join('')
      : [told.message, told.hint, written.mock.calls.length];
  } finally {
    written.mockRestore();
  }
}

it.each([
  [['bogus'], "Unknown command 'bogus'.", 'wrenn --help'],
  [['ru'], "Unknown command 'ru' (Did you mean run?)", 'wrenn --help'],
  [['sandbox', 'get'], "Missing required argument 'id'.", 'wrenn sandbox get --help'],
  [
    ['sandbox', 'get', 'x', '--jsn'],
    "Unknown option '--jsn' (Did you mean --json?)",
    'wrenn sandbox get --help',
  ],
  [['sandbox', 'none'], "Unknown command 'none'.", 'wrenn sandbox --help'],
  [
    ['sandbox', 'get', 'x', 'y'],
    "Too many arguments for 'get'. Expected 1 argument but got 2.",
    'wrenn sandbox get --help',
  ],
])('%j is told once, and where to look', async (words, message, hint) => {
  expect(await failure(...words)).toEqual([message, hint, 0]);
});

it('leaves help to speak for itself', async () => {
  expect(await failure('sandbox')).toContain('Usage: wrenn sandbox');
});
