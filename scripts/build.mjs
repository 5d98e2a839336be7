/**
 * Bundles the CLI with everything in it into packages/cli/dist. Chunks are split where the code imports
 * lazily, so that `wrenn --help` does not load the agent.
 */
import { existsSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT, secondsSince } from './lib.mjs';

const DIST = join(ROOT, 'packages/cli/dist');
/**
 * A build under way, which has DIST's name only when it is whole, or one that has made room for it. As deep as DIST: source
 * maps name files from there.
 */
const UNDER_WAY = /^dist\.(\d+)(\.\d+)?$/;
const INPUTS = ['packages', 'package-lock.json', 'scripts/build.mjs'];
/** Only as many as end at the same moment can come in between. */
const MAX_SWAPS = 100;
let asides = 0;

const latest = newest(INPUTS);
const before = builtFrom();
if (process.argv.includes('--force') || latest > before) {
  const startedAt = performance.now();
  const { build } = await import('esbuild');
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
  // As old as what it was made from: what has changed since it was read is newer. Times are set with a millisecond's precision.
  const time = new Date(Math.ceil(latest) + 1);
  utimesSync(join(outdir, 'main.js'), time, time);
  publish(outdir, time);
  process.stderr.write(`build: done in ${secondsSince(startedAt)}\n`);
}

/**
 * Gives the build DIST's name. A directory that has files in it cannot be replaced in one step: the old one makes room
 * first, and another build that ends at this moment may be quicker.
 */
function publish(outdir, time) {
  for (let swaps = 0; ; swaps += 1) {
    const made = builtFrom();
    // Of what has changed since this one began: that one stays.
    if (made !== before && made > time.getTime()) break;
    if (swaps > 0) setAside(DIST);
    try {
      renameSync(outdir, DIST);
      break;
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST'].includes(error.code) || swaps === MAX_SWAPS) throw error;
    }
  }
  removeLeftovers();
}

/** Under a name of this build's own: another one may want to take the same away. */
function setAside(path) {
  asides += 1;
  try {
    renameSync(path, `${DIST}.${process.pid}.${asides}`);
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
}

/** What this build has set aside, and what those have left that were ended. */
function removeLeftovers() {
  const around = dirname(DIST);
  const pidOf = (name) => UNDER_WAY.exec(name)?.[1];
  const isOwn = (name) => pidOf(name) === String(process.pid);
  const removeOwn = () => {
    for (const name of readdirSync(around).filter(isOwn)) rmSync(join(around, name), { recursive: true });
  };
  // Also those of one that had the same pid, whose names are wanted.
  removeOwn();
  for (const name of readdirSync(around)) {
    const pid = pidOf(name);
    if (pid !== undefined && !isOwn(name) && !existsSync(`/proc/${pid}`)) setAside(join(around, name));
  }
  removeOwn();
}

/** How new the newest input of the last build was. */
function builtFrom() {
  // In one step: another build may make room at this moment.
  return statSync(join(DIST, 'main.js'), { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** The latest change below any of the paths; dependencies and other builds do not count, nor what they do to the directory around. */
function newest(paths) {
  let latest = 0;
  for (const path of paths) {
    const stats = statSync(join(ROOT, path));
    if (join(ROOT, path) !== dirname(DIST)) latest = Math.max(latest, stats.mtimeMs);
    if (!stats.isDirectory()) continue;
    const inside = readdirSync(join(ROOT, path)).filter(
      (name) => name !== 'node_modules' && name !== 'dist' && !UNDER_WAY.test(name),
    );
    latest = Math.max(latest, newest(inside.map((name) => join(path, name))));
  }
  return latest;
}
