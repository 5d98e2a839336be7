/** The README's first command: sets the machine up, then shows a microVM from its birth to its end. */
import { join } from 'node:path';
import { asRoot, bootstrap } from './bootstrap.mjs';
import { must, ROOT } from './lib.mjs';

await bootstrap({ templates: ['base'] });
const [program, ...args] = [...asRoot(), process.execPath, join(ROOT, 'packages/cli/bin/wrenn.mjs'), 'demo'];
await must(program, args);
