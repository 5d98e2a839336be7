/** envd's command line. Everything else is started from here and nowhere else. */
import { parseArgs } from 'node:util';
import { createAccessToken } from './auth.ts';
import { startServer } from './server.ts';
import { createLibc } from './sys/libc.ts';
import { createUsers } from './sys/users.ts';

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '0.0.0.0' },
    port: { type: 'string', default: '49983' },
    'default-user': { type: 'string', default: 'user' },
    // Off unless asked for: a test on a developer's machine must never touch its clock.
    'set-clock': { type: 'boolean', default: false },
  },
});

const port = Number(values.port);
if (!Number.isInteger(port) || port < 0 || port > 65535) {
  console.error(`envd: --port ${values.port} is not a port number`);
  process.exit(2);
}

const server = startServer(
  {
    settings: {
      defaultUser: values['default-user'],
      defaultWorkdir: undefined,
      globalEnv: new Map(),
    },
    accessToken: createAccessToken(),
    users: createUsers(),
    libc: createLibc(),
  },
  { host: values.host, port, setClock: values['set-clock'] },
);
console.log(`envd: listening on ${values.host}:${server.port}`);
