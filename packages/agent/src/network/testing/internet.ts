/** What stands in the internet for tests: a name server, a web server and a TLS server; and a client to ask them. */
import { runCommand } from '@wrenn/host';
import { serveIn } from './server.ts';

const START_MS = 15_000;

/** Names of DNS and the addresses that they have. */
export type Names = Readonly<Record<string, readonly string[]>>;

const SERVER = `
const http = require('node:http'), tls = require('node:tls'), dgram = require('node:dgram'), crypto = require('node:crypto');
const { names, resolver } = JSON.parse(process.argv[1]);
const say = (line) => console.log(line);
const web = http.createServer((q, r) => {
  say('http ' + q.headers.host + ' ' + q.url);
  r.on('error', () => {});
  if (q.url === '/endless') { const t = setInterval(() => r.write('.'), 20); r.on('close', () => clearInterval(t)); return; }
  if (q.url === '/big') { r.end(Buffer.alloc(3_000_000, 'x')); return; }
  let size = 0;
  q.on('data', (d) => (size += d.length)).on('end', () => r.end(q.method + ' ' + q.headers.host + ' ' + size));
});
web.on('upgrade', (q, s) => {
  say('upgrade ' + q.headers.host);
  s.on('error', () => {});
  s.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n');
  s.pipe(s);
});
const psk = () => Buffer.alloc(16, 1);
const secure = tls.createServer({ ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: psk }, (s) => {
  say('tls ' + s.servername);
  s.on('error', () => {});
  s.write('hello');
  s.pipe(s);
});
secure.on('tlsClientError', () => say('tls error'));
const dns = dgram.createSocket('udp4');
dns.on('message', (q, from) => {
  let at = 12; const labels = [];
  while (q[at] > 0) { labels.push(q.subarray(at + 1, at + 1 + q[at]).toString()); at += 1 + q[at]; }
  const found = q.readUInt16BE(at + 1) === 1 ? (names[labels.join('.').toLowerCase()] ?? []) : [];
  say('dns ' + labels.join('.'));
  const head = Buffer.from(q.subarray(0, at + 5));
  head.writeUInt16BE(0x8180, 2); head.writeUInt16BE(found.length, 6); head.writeUInt16BE(0, 8); head.writeUInt16BE(0, 10);
  const answers = found.map((a) => Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, ...a.split('.').map(Number)]));
  dns.send(Buffer.concat([head, ...answers]), from.port, from.address, () => {});
});
web.listen(80, '0.0.0.0', () => secure.listen(443, '0.0.0.0', () => dns.bind(53, resolver, () => say('ready'))));
`;

/** Connects, sends, and says what came back and how it ended. */
const CLIENT = `
const net = require('node:net'), tls = require('node:tls');
const { address, port, send, servername, forMs, bytes } = JSON.parse(process.argv[1]);
const raw = net.connect({ host: address, port, allowHalfOpen: true });
const psk = () => ({ psk: Buffer.alloc(16, 1), identity: 'x' });
const s = servername === undefined ? raw
  : tls.connect({ socket: raw, servername, ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: psk, checkServerIdentity: () => undefined });
let got = '', size = 0;
const done = (how) => { console.log(JSON.stringify({ got: got.slice(0, 2000), size, how, ms: performance.now() - at })); process.exit(0); };
const at = performance.now();
s.on('data', (d) => { size += d.length; got += d.toString('latin1').slice(0, 2000); if (bytes !== undefined && size >= bytes) done('enough'); });
s.on('end', () => done('end')).on('error', (e) => done(e.code)).on('close', () => done('closed'));
s.once(servername === undefined ? 'connect' : 'secureConnect', async () => {
  for (const part of send) { s.write(typeof part === 'number' ? Buffer.alloc(part, 'x') : part); await new Promise((r) => setTimeout(r, 30)); }
});
setTimeout(() => done('open'), forMs);
`;

export interface Internet {
  /** What the servers were asked, in order. */
  readonly seen: readonly string[];
  close(): Promise<void>;
}

/** In a namespace, on all its addresses; the name server on one of them. */
export async function startInternet(netns: string, resolver: string, names: Names): Promise<Internet> {
  return await serveIn(netns, SERVER, JSON.stringify({ names, resolver }));
}

export interface Ask {
  readonly address?: string;
  readonly port?: number;
  /** Texts, or so many bytes of anything, one after the other. */
  readonly send: readonly (string | number)[];
  /** With TLS. */
  readonly servername?: string;
  readonly forMs?: number;
  /** After so many bytes it is enough. */
  readonly bytes?: number;
}

export interface Heard {
  readonly got: string;
  readonly size: number;
  /** `end`, `open` still, `enough`, or the code of an error. */
  readonly how: string;
  readonly ms: number;
}

export async function ask(
  netns: string,
  { address = '203.0.113.10', forMs = 10_000, ...rest }: Ask,
): Promise<Heard> {
  const port = rest.port ?? (rest.servername === undefined ? 80 : 443);
  const argument = JSON.stringify({ address, forMs, ...rest, port });
  const words = [`--net=/run/netns/${netns}`, process.execPath, '-e', CLIENT, argument];
  const { stdout } = await runCommand('nsenter', words, { timeoutMs: START_MS + forMs });
  const heard: Heard = JSON.parse(stdout);
  return heard;
}
