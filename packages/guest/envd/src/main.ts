/** envd's entry: everything is started from here and nowhere else. */
import { parseFlags } from './flags.ts';
import { startServer } from './server.ts';

const flags = parseFlags(process.argv.slice(2));
if (typeof flags === 'string') {
  console.error(`envd: ${flags}`);
  process.exit(2);
}
const server = startServer(flags);
console.log(`envd: listening on ${flags.host}:${server.port}`);
