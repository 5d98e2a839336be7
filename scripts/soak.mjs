/** `npm run soak`: sets the machine up, bundles the soak and runs it as root. Its options are its own. */
import { resolve } from 'node:path';
import { asRoot, bootstrap } from './bootstrap.mjs';
import { bundle, run } from './lib.mjs';

const args = process.argv.slice(2);
const file = args.indexOf('--json') + 1;
if (file > 0 && args[file] !== undefined) {
  args[file] = resolve(process.env.INIT_CWD ?? process.cwd(), args[file]);
}
await bootstrap({ templates: ['minimal'] });
const outfile = await bundle('bench/soak/main.ts', ['esbuild', 'e2b']);
const [program, ...rest] = [...asRoot(), process.execPath, outfile, ...args];
process.exitCode = await run(program, rest);
