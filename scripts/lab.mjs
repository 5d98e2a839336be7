/** `npm run lab`: sets the machine up, bundles the laboratory and runs it as root. Its options are its own. */
import { resolve } from 'node:path';
import { asRoot, bootstrap } from './bootstrap.mjs';
import { bundle, run } from './lib.mjs';

// From where the user is, not from where the run is.
const args = process.argv.slice(2);
const file = args.indexOf('--report') + 1;
if (file > 0 && args[file] !== undefined) {
  args[file] = resolve(process.env.INIT_CWD ?? process.cwd(), args[file]);
}

await bootstrap({ templates: ['minimal'] });
const program = await bundle('lab/main.ts');
// What it may run in the machine.
await bundle('bench/main.ts');
const [first, ...rest] = [...asRoot(), process.execPath, program, ...args];
process.exitCode = await run(first, rest);
