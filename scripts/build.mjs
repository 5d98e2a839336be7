/**
 * Bundles the CLI with everything in it into packages/cli/dist. Chunks are split where the code imports
 * lazily, so that `wrenn --help` does not load the agent.
 */
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, secondsSince } from './lib.mjs';

const DIST = join(ROOT, 'packages/cli/dist');
const INPUTS = ['packages', 'package-lock.json', 'scripts/build.mjs'];

if (process.argv.includes('--force') || newest(INPUTS) > builtAt()) {
  const startedAt = performance.now();
  const { build } = await import('esbuild');
  rmSync(DIST, { recursive: true, force: true });
  await build({
    absWorkingDir: ROOT,
    entryPoints: ['packages/cli/src/main.ts'],
    outdir: DIST,
    bundle: true,
    splitting: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    sourcemap: 'linked',
    // They look for files of their own beside them.
    external: ['@electric-sql/pglite', 'pg', 'fastify'],
    logLevel: 'warning',
    // Some dependencies are CommonJS and call `require` for Node's own modules.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
  });
  process.stderr.write(`build: done in ${secondsSince(startedAt)}\n`);
}

function builtAt() {
  const main = join(DIST, 'main.js');
  return existsSync(main) ? statSync(main).mtimeMs : 0;
}

/** The latest change below any of the paths; dependencies and earlier builds do not count. */
function newest(paths) {
  let latest = 0;
  for (const path of paths) {
    const stats = statSync(join(ROOT, path));
    latest = Math.max(latest, stats.mtimeMs);
    if (!stats.isDirectory()) continue;
    const inside = readdirSync(join(ROOT, path)).filter((name) => name !== 'node_modules' && name !== 'dist');
    latest = Math.max(latest, newest(inside.map((name) => join(path, name))));
  }
  return latest;
}
