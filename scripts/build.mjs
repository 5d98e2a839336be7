/**
 * Bundles the CLI with everything in it into packages/cli/dist. Chunks are split where the code imports
 * lazily, so that `wrenn --help` does not load the agent.
 */
import { existsSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT, secondsSince } from './lib.mjs';

const DIST = join(ROOT, 'packages/cli/dist');
/** A build under way, which has DIST's name only when it is whole. As deep as DIST: source maps name files from there. */
const UNDER_WAY = /^dist\.(\d+)$/;
const INPUTS = ['packages', 'package-lock.json', 'scripts/build.mjs'];

const latest = newest(INPUTS);
if (process.argv.includes('--force') || latest > builtFrom()) {
  const startedAt = performance.now();
  const { build } = await import('esbuild');
  const around = statSync(dirname(DIST));
  const outdir = `${DIST}.${process.pid}`;
  removeLeftovers();
  await build({
    absWorkingDir: ROOT,
    entryPoints: ['packages/cli/src/main.ts'],
    outdir,
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
  rmSync(DIST, { recursive: true, force: true });
  renameSync(outdir, DIST);
  // The directory around it counts as changed by that.
  utimesSync(dirname(DIST), around.atime, around.mtime);
  // As old as what it was made from: what has changed since it was read is newer. Times are set with a millisecond's precision.
  const time = new Date(Math.ceil(latest) + 1);
  utimesSync(join(DIST, 'main.js'), time, time);
  process.stderr.write(`build: done in ${secondsSince(startedAt)}\n`);
}

/** Of builds that were ended. */
function removeLeftovers() {
  for (const name of readdirSync(dirname(DIST))) {
    const pid = UNDER_WAY.exec(name)?.[1];
    if (pid === undefined || (pid !== String(process.pid) && existsSync(`/proc/${pid}`))) continue;
    rmSync(join(dirname(DIST), name), { recursive: true });
  }
}

/** How new the newest input of the last build was. */
function builtFrom() {
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
    const inside = readdirSync(join(ROOT, path)).filter(
      (name) => name !== 'node_modules' && name !== 'dist' && !UNDER_WAY.test(name),
    );
    latest = Math.max(latest, newest(inside.map((name) => join(path, name))));
  }
  return latest;
}
