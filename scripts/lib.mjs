/** What the scripts share: running programs and talking about it. No dependencies: it runs before `npm ci`. */
import { spawn } from 'node:child_process';
import { dirname, join, parse } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/**
 * Runs a program with its output on the terminal. Resolves with its exit code.
 *
 * It takes everything away before it ends, so whoever ends this process waits for that: Ctrl+C reaches both, SIGTERM
 * perhaps this one alone, and is passed on. Nothing comes after it then.
 * @param {string} program
 * @param {string[]} args
 * @param {import('node:child_process').SpawnOptions} [options]
 * @returns {Promise<number>}
 */
export function run(program, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: 'inherit', shell: false, ...options });
    let isEnding = false;
    /** @param {NodeJS.Signals} signal */
    const onSignal = (signal) => {
      isEnding = true;
      if (signal === 'SIGTERM') child.kill(signal);
    };
    process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
    const release = () => process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    child.once('error', (error) => {
      release();
      reject(error);
    });
    child.once('close', (code, signal) => {
      release();
      const exitCode = signal === null ? (code ?? 1) : 1;
      if (isEnding) process.exit(exitCode || 1);
      resolve(exitCode);
    });
  });
}

/**
 * Runs a program and keeps its output. Resolves with both; never rejects on a failure of the program.
 * @param {string} program
 * @param {string[]} args
 * @returns {Promise<{code: number, output: string}>}
 */
export function capture(program, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'], shell: false });
    /** @type {Buffer[]} */
    const chunks = [];
    child.stdout.on('data', (chunk) => chunks.push(chunk));
    child.stderr.on('data', (chunk) => chunks.push(chunk));
    child.once('error', reject);
    child.once('close', (code) =>
      resolve({ code: code ?? 1, output: Buffer.concat(chunks).toString('utf8') }),
    );
  });
}

/** Runs a program and ends this process with its exit code when that is not zero. */
export async function must(program, args, options = {}) {
  const code = await run(program, args, options);
  if (code !== 0) process.exit(code);
}

/** Says what went wrong and what to do, and ends the process. */
export function fail(message, hint) {
  process.stderr.write(`wrenn: ${message}\n${hint === undefined ? '' : `hint: ${hint}\n`}`);
  process.exit(1);
}

/** @param {number} startedAt as performance.now() gives it */
export function secondsSince(startedAt) {
  return `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
}

/**
 * Bundles a program of the checkout that is no package into `dist/` beside it. Needs the npm packages.
 * @param {string} entry from the checkout's root
 * @param {string[]} [external] packages that are found in node_modules when it runs
 * @returns {Promise<string>} the bundle's path
 */
export async function bundle(entry, external = []) {
  const { build } = await import('esbuild');
  const outfile = join(ROOT, dirname(entry), 'dist', `${parse(entry).name}.js`);
  await build({
    absWorkingDir: ROOT,
    entryPoints: [entry],
    outfile,
    external,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    sourcemap: 'inline',
    logLevel: 'warning',
    // Some dependencies are CommonJS and call `require` for Node's own modules.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
  });
  return outfile;
}
