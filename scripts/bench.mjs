/**
 * `npm run bench`: sets the machine up, bundles the benchmarks and runs them as root. Its options are theirs:
 * `--json FILE` and `--rounds N`.
 */
import { join, resolve } from 'node:path';
import { asRoot, bootstrap } from './bootstrap.mjs';
import { ROOT, run } from './lib.mjs';

// From where the user is, not from where the run is.
const args = process.argv.slice(2);
const file = args.indexOf('--json') + 1;
if (file > 0 && args[file] !== undefined) {
  args[file] = resolve(process.env.INIT_CWD ?? process.cwd(), args[file]);
}

await bootstrap({ templates: ['minimal'] });
const { build } = await import('esbuild');
const outfile = join(ROOT, 'bench/dist/main.js');
await build({
  absWorkingDir: ROOT,
  entryPoints: ['bench/main.ts'],
  outfile,
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
// The benchmarks take everything away before they end on Ctrl+C, so this waits for them.
process.on('SIGINT', () => {}).on('SIGTERM', () => {});
const [program, ...rest] = [...asRoot(), process.execPath, outfile, ...args];
process.exitCode = await run(program, rest);
