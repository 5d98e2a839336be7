/** What the agent does about a gateway or a door that fails half-way. */
import { readdir } from 'node:fs/promises';
import { NETNS_DIR, processesOfUser, runCommand } from '@wrenn/host';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bundleGateway, type GatewayProgram } from '../testing/gateway-program.ts';
import { createEgressGateway, type EgressGateway } from './supervisor.ts';

const UID = 1_969_999_988;
const NETNS = 'wrenn-half-door';
const POLICY = { names: ['example.com'] };
const LIMITS = { maxConnections: 12, headMs: 1000, maxHeadBytes: 16_384, idleMs: 60_000 };
/** Listens at one of two ports, hands that over, and fails. */
const HALF_DOOR = `
  const server = require('node:net').createServer();
  server.listen(80, '0.0.0.0', () => process.send({ port: 80 }, server, undefined, () => process.exit(1)));`;
const signal = new AbortController().signal;

let program: GatewayProgram;
let gateway: EgressGateway;
let isDoorWhole = false;

async function openFiles(): Promise<number> {
  const [found] = await processesOfUser(UID);
  return (await readdir(`/proc/${found?.pid}/fd`)).length;
}

beforeAll(async () => {
  program = await bundleGateway();
  await runCommand('ip', ['netns', 'add', NETNS], { timeoutMs: 10_000 });
  gateway = createEgressGateway({
    settings: { uid: UID, denied: [], connectMs: 1000, limits: LIMITS },
    command: (role) =>
      role === 'egress-door' && !isDoorWhole ? [process.execPath, '-e', HALF_DOOR] : program.command(role),
    onWarning: () => {},
  });
});
afterAll(async () => {
  await gateway?.stop();
  await runCommand('ip', ['netns', 'delete', NETNS], { timeoutMs: 10_000 });
  await program?.remove();
});

it('leaves nothing of half a door, so that the next one can be opened, and nothing of that one either', async () => {
  await expect(gateway.open(NETNS, POLICY, signal)).rejects.toThrow('The egress door cannot be opened');
  const before = await openFiles();
  isDoorWhole = true;
  await gateway.open(NETNS, POLICY, signal);
  expect(await openFiles()).toBe(before + 2);
  await gateway.close(NETNS);
  expect(await openFiles()).toBe(before);
  expect(await readdir(NETNS_DIR)).toContain(NETNS);
});

it('leaves no process when it is stopped', async () => {
  await gateway.stop();
  expect(await processesOfUser(UID)).toEqual([]);
});
