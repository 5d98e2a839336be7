/** envd's entry: everything is started from here and nowhere else. */
import { parseFlags } from './flags.ts';
import { logError } from './log.ts';
import { startServer } from './server.ts';

const flags = parseFlags(process.argv.slice(2));
if (typeof flags === 'string') {
  console.error(`envd: ${flags}`);
  process.exit(2);
}
// One call's mistake must not end the others: by default either of these would end the process.
process.on('unhandledRejection', (error) => logError('a rejection was not handled', error));
process.on('uncaughtException', (error) => logError('an exception was not caught', error));

const server = startServer(flags);
console.log(`envd: listening on ${flags.host}:${server.port}`);
