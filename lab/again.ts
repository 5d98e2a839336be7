/** Files of tests that failed, once more. */
import { WrennError } from '@wrenn/protocol';
import type { LabResult } from './machine.ts';
import { failedFiles, mergeReports, parseReport } from './report.ts';
import { testsCommand } from './suites.ts';

/** More than this at once is not chance. */
const FILES_AGAIN_MAX = 2;

/**
 * A guest of an emulated KVM dies now and then by itself (README.md): that is no verdict on what is tested. So files that
 * failed, if they are few, are run once more, in a machine that nothing has happened to. A mistake of ours fails twice.
 */
export async function withFailedFilesAgain(
  result: LabResult,
  runIt: (command: readonly string[]) => Promise<LabResult>,
  say: (line: string) => void,
): Promise<LabResult> {
  const first = parseReport(result.report);
  const files = first === undefined ? [] : failedFiles(first);
  if (first === undefined || files.length === 0 || files.length > FILES_AGAIN_MAX) return result;
  say(`once more, in a new machine: ${files.join(' ')}`);
  let second: LabResult;
  try {
    second = await runIt(testsCommand(files));
  } catch (error) {
    const { code, message } = WrennError.from(error);
    if (code === 'cancelled') throw error;
    // What failed the first time is worth more than why there was no second.
    say(message);
    return result;
  }
  const { exitCode, report } = second;
  const again = parseReport(report);
  say(exitCode === 0 ? 'passed the second time' : 'failed the second time, too');
  if (again === undefined) return { ...result, exitCode };
  return { exitCode, report: JSON.stringify(mergeReports(first, again)) };
}
