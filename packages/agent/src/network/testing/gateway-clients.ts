/** Programs that do to the gateway, and to what is beside it, more than `ask` does. */
import { runCommand } from '@wrenn/host';
import { WORLD } from './lab.ts';

const TIMEOUT_MS = 20_000;

/** Asks for the address of example.com. */
const RESOLVER_CLIENT = `
const [address] = JSON.parse(process.argv[1]);
const query = Buffer.from('000101000001000000000000076578616d706c6503636f6d0000010001', 'hex');
const s = require('node:dgram').createSocket('udp4');
s.on('message', () => process.exit(0));
s.send(query, 53, address);
setTimeout(() => process.exit(1), 8000);
`;

const CONNECTOR = `
const net = require('node:net');
const { addresses, port } = JSON.parse(process.argv[1]);
const isReached = (host) => new Promise((resolve) => {
  const s = net.connect({ host, port });
  s.on('connect', () => resolve(true)).on('error', () => resolve(false));
  setTimeout(() => resolve(false), 3000);
});
Promise.all(addresses.map(isReached)).then((are) => {
  console.log(JSON.stringify(addresses.filter((_, index) => are[index])));
  process.exit(0);
});
`;

/** Tells when as many have ended as are to, and then no more of them for a while. */
const SILENT = `
const net = require('node:net');
const { address, calls, surplus } = JSON.parse(process.argv[1]);
let [ended, quiet] = [0];
const tell = () => { console.log(ended); process.exit(0); };
for (let n = 0; n < calls; n += 1) net.connect(443, address).on('error', () => {
  ended += 1;
  clearTimeout(quiet);
  if (ended >= surplus) quiet = setTimeout(tell, 300);
});
setTimeout(tell, 8000);
`;

/** Tells after a second, or later where it has not seen by then what it waits for. */
const IMPATIENT = `
const net = require('node:net');
const { address, calls, enough } = JSON.parse(process.argv[1]);
let [open, refused] = [0, 0];
for (let n = 0; n < calls; n += 1) net.connect(443, address, () => (open += 1)).on('error', () => (refused += 1));
const startedAt = performance.now();
setInterval(() => {
  const ms = performance.now() - startedAt;
  const isEnough = ms >= 900 && open >= enough.open && refused > enough.refused;
  if (!isEnough && ms < 5000) return;
  console.log(JSON.stringify({ open, refused }));
  process.exit(0);
}, 50);
`;

/** Resolves when the name server has answered; else it rejects. */
export async function queryNameServer(netns: string, address: string): Promise<void> {
  await tellOf(netns, [process.execPath, '-e', RESOLVER_CLIENT], [address]);
}

/** Those of the addresses that a user without privileges can connect to. */
export async function reachedByUser(
  netns: string,
  uid: number,
  to: { readonly addresses: readonly string[]; readonly port: number },
): Promise<string[]> {
  const user = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', '--'];
  const told = await tellOf(netns, [...user, process.execPath, '-e', CONNECTOR], to);
  const reached: string[] = JSON.parse(told);
  return reached;
}

/** Calls at once and says nothing. Resolves with how many of the calls were ended; `surplus` is how many should be. */
export async function callInSilence(
  netns: string,
  { calls, surplus }: { readonly calls: number; readonly surplus: number },
): Promise<number> {
  const argument = { address: WORLD.internet, calls, surplus };
  return Number(await tellOf(netns, [process.execPath, '-e', SILENT], argument));
}

export interface Calls {
  readonly open: number;
  readonly refused: number;
}

/** Calls as often as it can. Resolves with what became of the calls, when that is `enough` or it never will be. */
export async function callOften(netns: string, calls: number, enough: Calls): Promise<Calls> {
  const argument = { address: WORLD.internet, calls, enough };
  const told: Calls = JSON.parse(await tellOf(netns, [process.execPath, '-e', IMPATIENT], argument));
  return told;
}

async function tellOf(netns: string, program: readonly string[], argument: unknown): Promise<string> {
  const words = [`--net=/run/netns/${netns}`, ...program, JSON.stringify(argument)];
  return (await runCommand('nsenter', words, { timeoutMs: TIMEOUT_MS })).stdout;
}
