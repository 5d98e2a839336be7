/** The API as a program, to be killed. Its configuration is JSON in the first argument; it says its port. */
import { writeSync } from 'node:fs';
import { createApi } from '../api.ts';
import { parseApiConfig } from '../config/schema.ts';
import { createApiLogger } from '../log.ts';
import { openStore } from '../store/index.ts';

const config = parseApiConfig(JSON.parse(process.argv[2] ?? '{}'));
const store = await openStore(config.store);
const api = createApi(config, { store, log: createApiLogger('silent'), version: '0.0.0-test' });
const { port } = await api.listen();
writeSync(1, `${port}\n`);
