/** The API's log as a program, which says more than anybody reads. */
import { createApiLogger } from '../log.ts';

// As the command line does; writes to a pipe do not wait from now on.
process.stderr.on('error', () => {});
const log = createApiLogger('info');
for (let n = 0; n < 20_000; n += 1) log.info({ n, apiKey: 'e2b_1' }, 'text');
