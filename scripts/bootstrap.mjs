/**
 * From a clone to a machine that can run Wrenn: npm packages, the build, system packages, kernel and images.
 * Plain JavaScript without dependencies, since it runs first. Idempotent: what is there is skipped.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fail, must, ROOT } from './lib.mjs';

const MIN_NODE = [20, 19];
/**
 * No package of ours needs an install script, so none is run. What builds Wrenn is a development dependency, which npm leaves out
 * where NODE_ENV is `production`.
 */
export const NPM_OPTIONS = [
  '--include=dev',
  '--ignore-scripts',
  '--no-audit',
  '--no-fund',
  '--loglevel=error',
];
const STAMP = join(ROOT, 'node_modules', '.wrenn-lock-hash');

/** @param {{ templates: string[] }} options */
export async function bootstrap({ templates }) {
  requireNode();
  await installPackages();
  await must(process.execPath, ['scripts/build.mjs']);
  const wrenn = [process.execPath, join(ROOT, 'packages/cli/bin/wrenn.mjs')];
  const [program, ...args] = [
    ...asRoot(),
    ...wrenn,
    'setup',
    ...templates.flatMap((name) => ['--template', name]),
  ];
  await must(program, args);
}

/** The words that put a command under root: none, or sudo. */
export function asRoot() {
  if (process.getuid?.() === 0) return [];
  const settings = Object.entries(process.env).filter(([name]) => name.startsWith('WRENN_'));
  return ['sudo', '--', 'env', ...settings.map(([name, value]) => `${name}=${value}`)];
}

function requireNode() {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    fail('Wrenn runs on Linux on x86-64.', `This is ${process.platform} on ${process.arch}.`);
  }
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > MIN_NODE[0] || (major === MIN_NODE[0] && minor >= MIN_NODE[1])) return;
  fail(
    `Node ${process.versions.node} is too old: Wrenn needs ${MIN_NODE.join('.')} or newer.`,
    'https://nodejs.org',
  );
}

async function installPackages() {
  const lock = readFileSync(join(ROOT, 'package-lock.json'));
  const hash = createHash('sha256').update(lock).digest('hex');
  if (existsSync(STAMP) && readFileSync(STAMP, 'utf8') === hash) return;
  process.stderr.write('npm packages: installing\n');
  await must('npm', ['ci', ...NPM_OPTIONS]);
  writeFileSync(STAMP, hash);
}
