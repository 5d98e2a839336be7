import { WrennError } from '@wrenn/protocol';
import { expect, it } from 'vitest';
import { withFailedFilesAgain } from './again.ts';
import { testsCommand } from './suites.ts';

const PASSED = ['passed'];
const FAILED = ['passed', 'failed'];

function resultOf(files: Readonly<Record<string, readonly string[]>>) {
  const testResults = Object.entries(files).map(([name, statuses]) => ({
    name,
    status: statuses.includes('failed') ? 'failed' : 'passed',
    assertionResults: statuses.map((status) => ({ status })),
  }));
  const exitCode = testResults.some(({ status }) => status === 'failed') ? 1 : 0;
  return { exitCode, report: JSON.stringify({ testResults }) };
}

/** What came of a first run, what was run then, and what was said. */
async function tryAgain(first: ReturnType<typeof resultOf>, second = resultOf({})) {
  const commands: (readonly string[])[] = [];
  const said: string[] = [];
  const result = await withFailedFilesAgain(
    first,
    async (command) => {
      commands.push(command);
      return second;
    },
    (line) => said.push(line),
  );
  return { result, commands, said };
}

it('runs the files that failed in a new machine, and counts them as they were there', async () => {
  const first = resultOf({ a: PASSED, b: FAILED });
  const { result, commands, said } = await tryAgain(first, resultOf({ b: ['passed', 'passed'] }));
  expect(commands).toEqual([testsCommand(['b'])]);
  expect(result.exitCode).toBe(0);
  expect(JSON.parse(result.report)).toMatchObject({ numPassedTests: 3, numFailedTests: 0, success: true });
  expect(said).toEqual(['once more, in a new machine: b', 'passed the second time']);
});

it('fails with what fails twice', async () => {
  const first = resultOf({ a: PASSED, b: FAILED });
  const { result, said } = await tryAgain(first, resultOf({ b: FAILED }));
  expect(result.exitCode).toBe(1);
  expect(JSON.parse(result.report)).toMatchObject({ numPassedTests: 2, numFailedTests: 1, success: false });
  expect(said.at(-1)).toBe('failed the second time, too');
});

it.each([
  ['nothing failed', resultOf({ a: PASSED })],
  ['more failed than by chance', resultOf({ a: FAILED, b: FAILED, c: FAILED })],
  ['there is no report', { exitCode: 1, report: '' }],
])('runs nothing again where %s', async (_, first) => {
  const { result, commands } = await tryAgain(first);
  expect(commands).toEqual([]);
  expect(result).toBe(first);
});

it('is what it was the second time where that leaves no report', async () => {
  const { result } = await tryAgain(resultOf({ a: FAILED }), { exitCode: 137, report: '' });
  expect(result).toEqual({ ...resultOf({ a: FAILED }), exitCode: 137 });
});

it.each(['vmm_died', 'deadline_exceeded'] as const)(
  'is what it was where the second ends with %s',
  async (code) => {
    const first = resultOf({ a: FAILED });
    const said: string[] = [];
    const work = withFailedFilesAgain(
      first,
      () => Promise.reject(new WrennError(code, 'The machine is no more.')),
      (line) => said.push(line),
    );
    expect(await work).toBe(first);
    expect(said.at(-1)).toBe('The machine is no more.');
  },
);

it('is not told when it was interrupted', async () => {
  const interrupted = new WrennError('cancelled', 'The laboratory was interrupted.');
  const work = withFailedFilesAgain(
    resultOf({ a: FAILED }),
    () => Promise.reject(interrupted),
    () => {},
  );
  await expect(work).rejects.toBe(interrupted);
});
