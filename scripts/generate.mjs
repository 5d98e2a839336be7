/**
 * Writes the TypeScript that comes from proto/. With --check it writes beside and compares byte for byte,
 * and fails when the committed files differ.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fail, must, ROOT } from './lib.mjs';

const BUF = join(ROOT, 'node_modules/.bin/buf');
const COMMITTED = join(ROOT, 'packages/protocol/src/gen');

if (process.argv.includes('--check')) {
  const fresh = mkdtempSync(join(tmpdir(), 'wrenn-generate-'));
  try {
    await must(BUF, ['generate', '--output', fresh]);
    const different = compare(COMMITTED, join(fresh, 'packages/protocol/src/gen'));
    if (different.length > 0)
      fail(`Generated code differs from what is committed: ${different.join(', ')}`, 'npm run generate');
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
} else {
  await must(BUF, ['generate']);
}

/** The files that are in one of the two directories alone or differ. */
function compare(a, b) {
  const names = new Set([...filesIn(a), ...filesIn(b)]);
  return [...names].filter((name) => {
    const [left, right] = [join(a, name), join(b, name)];
    return !existsSync(left) || !existsSync(right) || !readFileSync(left).equals(readFileSync(right));
  });
}

function filesIn(directory) {
  return readdirSync(directory, { recursive: true })
    .map((name) => join(directory, String(name)))
    .filter((path) => statSync(path).isFile())
    .map((path) => relative(directory, path));
}
