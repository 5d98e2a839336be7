/** Who may use the agent's socket, tried as somebody else. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pino from 'pino';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseConfig } from '../config/load.ts';
import { type Listening, listen } from './listen.ts';

const run = promisify(execFile);
const GROUP = 54_322;
const OTHER = 54_323;
const CONNECT = `require('node:net').connect(process.argv[1])
  .once('connect', () => process.exit(0)).once('error', (error) => { console.log(error.code); process.exit(1) })`;

let dir: string;
let listening: Listening;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wrenn-group-'));
  await run('chmod', ['711', dir]);
});
afterEach(async () => {
  await listening.close(0);
  await rm(dir, { recursive: true });
});

async function listenFor(server: object): Promise<string> {
  const socketPath = join(dir, 'agent.sock');
  listening = await listen({
    socketPath,
    limits: parseConfig({ server }).server,
    routes: () => {},
    onRequestEnded: () => {},
    log: pino({ level: 'silent' }),
  });
  return socketPath;
}

/** What a process of that user and group is told: `connected`, or the error's code. */
async function connectAs(gid: number, socketPath: string): Promise<string> {
  const as = [`--reuid=${gid}`, `--regid=${gid}`, '--clear-groups', '--', process.execPath, '-e', CONNECT];
  return run('setpriv', [...as, socketPath]).then(
    () => 'connected',
    (error: { stdout: string }) => error.stdout.trim(),
  );
}

it('its owner alone', async () => {
  const socketPath = await listenFor({});
  expect((await stat(socketPath)).mode & 0o777).toBe(0o600);
  expect(await connectAs(0, socketPath)).toBe('connected');
  expect(await connectAs(GROUP, socketPath)).toBe('EACCES');
});

it('and the group that is named, and no other', async () => {
  const socketPath = await listenFor({ socketGid: GROUP });
  expect((await stat(socketPath)).mode & 0o777).toBe(0o660);
  expect(await connectAs(GROUP, socketPath)).toBe('connected');
  expect(await connectAs(OTHER, socketPath)).toBe('EACCES');
});
