import { expect, it } from 'vitest';
import { failedFiles, mergeReports, parseReport, type Report } from './report.ts';

const file = (name: string, ...statuses: string[]) => ({
  name,
  status: statuses.includes('failed') ? 'failed' : 'passed',
  assertionResults: statuses.map((status) => ({ status })),
});
const report = (...testResults: Report['testResults']): Report => ({ testResults });

it('counts a file that was run again as it was the second time', () => {
  const first = report(file('a', 'passed', 'skipped'), file('b', 'passed', 'failed', 'failed'));
  expect(failedFiles(first)).toEqual(['b']);
  const merged = mergeReports(first, report(file('b', 'passed', 'passed', 'failed')));
  expect(merged).toMatchObject({
    success: false,
    numPassedTests: 3,
    numFailedTests: 1,
    numPendingTests: 1,
  });
  expect(failedFiles(mergeReports(first, report(file('b', 'passed', 'passed', 'passed'))))).toEqual([]);
});

it('keeps a failed file that was not run again', () => {
  const first = report(file('a', 'failed'), file('b', 'failed'));
  expect(failedFiles(mergeReports(first, report(file('b', 'passed'))))).toEqual(['a']);
});

it('takes only what is a report', () => {
  expect(parseReport(JSON.stringify(report(file('a', 'passed'))))).toMatchObject({
    testResults: [{ name: 'a' }],
  });
  for (const text of ['', '{', '{"testResults":[{}]}', '[]']) expect(parseReport(text)).toBeUndefined();
});
