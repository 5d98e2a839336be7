/**
 * Runs in the machine: the tests of the project `lab`, and once more those files that failed, if they are few. A guest
 * of an emulated KVM dies now and then by itself (README.md): that is no verdict on what is tested. A mistake of ours
 * fails twice.
 */
import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { failedFiles, mergeReports, parseReport } from './report.ts';

const REPORT = '/run/report';
const VITEST = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'lab'];
/** More than this at once is not chance. */
const FILES_AGAIN_MAX = 2;

async function main(filters: readonly string[]): Promise<number> {
  const code = await runTests(filters);
  if (code === 0) return 0;
  const first = await readReport();
  const files = first === undefined ? [] : failedFiles(first);
  if (first === undefined || files.length === 0 || files.length > FILES_AGAIN_MAX) return code;
  process.stdout.write(`\n== once more: ${files.join(' ')}\n`);
  const secondCode = await runTests(files);
  const again = await readReport();
  if (again !== undefined) await writeFile(REPORT, JSON.stringify(mergeReports(first, again)));
  const outcome = secondCode === 0 ? 'passed' : 'failed again';
  process.stdout.write(`== ${outcome} the second time: ${files.join(' ')}\n`);
  return secondCode;
}

function runTests(filters: readonly string[]): Promise<number> {
  const reporters = ['--reporter=verbose', '--reporter=json', `--outputFile.json=${REPORT}`];
  const child = spawn(process.execPath, [...VITEST, ...reporters, ...filters], { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

async function readReport(): Promise<ReturnType<typeof parseReport>> {
  return parseReport(await readFile(REPORT, 'utf8').catch(() => ''));
}

process.exitCode = await main(process.argv.slice(2));
