/** Everything that can be checked without running the product: types, lint, format, imports, unused code, protos. */
import { join } from 'node:path';
import { capture, ROOT, secondsSince } from './lib.mjs';

const bin = (name) => join(ROOT, 'node_modules/.bin', name);

const CHECKS = [
  ['types', bin('tsc'), ['-p', '.']],
  ['types of the guest agent', bin('tsc'), ['-p', 'packages/guest/envd']],
  ['lint and format', bin('biome'), ['ci', '--error-on-warnings', '.']],
  [
    'import rules',
    bin('depcruise'),
    ['packages', 'tests', 'bench', 'lab', '--config', '.dependency-cruiser.cjs'],
  ],
  ['unused code', bin('knip'), ['--no-progress']],
  ['protos', bin('buf'), ['lint']],
];

const startedAt = performance.now();
const results = await Promise.all(
  CHECKS.map(async ([name, program, args]) => ({ name, ...(await capture(program, args)) })),
);
for (const { name, code, output } of results) {
  process.stdout.write(`${code === 0 ? 'ok  ' : 'FAIL'} ${name}\n`);
  if (code !== 0) process.stdout.write(`${output.trimEnd().replace(/^/gm, '     ')}\n`);
}
process.stdout.write(`checked in ${secondsSince(startedAt)}\n`);
process.exitCode = results.every(({ code }) => code === 0) ? 0 : 1;
