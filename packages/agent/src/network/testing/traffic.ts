/** Real packets between namespaces: small Node programs that listen, connect and send. */
import { runCommand } from '@wrenn/host';
import { serveIn } from './server.ts';

/** `tcp` connects and reads who the other side says we are; `udp` sends one packet and waits for its echo. */
export interface Probe {
  readonly kind: 'tcp' | 'udp';
  readonly address: string;
  readonly port: number;
  /** The source address to claim. */
  readonly source?: string;
  /** Instead of a second, which is for what is not to succeed: what is may take its time on a busy machine. */
  readonly timeoutMs?: number;
}

/** What the other side saw as our address, or why there was no answer. */
export type ProbeResult = { readonly seenAs: string } | { readonly failed: string };

export interface Listener {
  /** Who came, as `tcp 10.0.0.1`, in order. */
  readonly seen: readonly string[];
  close(): Promise<void>;
}

const START_TIMEOUT_MS = 10_000;
const PROBE_TIMEOUT_MS = 1000;
const TRANSFER_TIMEOUT_MS = 30_000;

const LISTENER = `
const net = require('node:net'), dgram = require('node:dgram'), os = require('node:os');
const port = Number(process.argv[1]);
const plain = (a) => a.replace('::ffff:', '');
const tcp = net.createServer((s) => {
  console.log('tcp ' + plain(s.remoteAddress));
  s.on('error', () => {});
  s.end(plain(s.remoteAddress));
});
tcp.listen(port, '::', () => {
  // A socket for each address, so that an answer comes from the address that was asked.
  const addresses = Object.values(os.networkInterfaces()).flat().filter((a) => !a.scopeid);
  Promise.all(addresses.map(({ address, family }) => new Promise((resolve) => {
    const udp = dgram.createSocket(family === 'IPv6' ? 'udp6' : 'udp4');
    udp.on('message', (m, from) => {
      console.log('udp ' + from.address);
      udp.send(from.address, from.port, from.address, () => {});
    });
    udp.bind(port, address, resolve);
  }))).then(() => console.log('ready'));
});
`;

const PROBER = `
const net = require('node:net'), dgram = require('node:dgram');
const { probes, timeoutMs } = JSON.parse(process.argv[1]);
const one = (p) => new Promise((resolve) => {
  const fail = (failed) => resolve({ failed });
  const timer = setTimeout(() => fail('timeout'), p.timeoutMs ?? timeoutMs);
  const done = (seenAs) => { clearTimeout(timer); resolve({ seenAs }); };
  if (p.kind === 'tcp') {
    let text = '';
    const s = net.connect({ host: p.address, port: p.port, localAddress: p.source });
    s.on('data', (d) => (text += d)).on('end', () => done(text)).on('error', (e) => fail(e.code));
  } else {
    const s = dgram.createSocket(net.isIPv6(p.address.split('%')[0]) ? 'udp6' : 'udp4');
    s.on('error', (e) => fail(e.code)).on('message', (m) => done(String(m)));
    s.bind(0, p.source, () => s.connect(p.port, p.address, (e) => (e ? fail(e.code) : s.send('?'))));
  }
});
Promise.all(probes.map(one)).then((r) => { console.log(JSON.stringify(r)); process.exit(0); });
`;

const TALKER = `
const net = require('node:net');
net.createServer((s) => {
  console.log('connected');
  s.on('error', (e) => { console.log(e.code); process.exit(0); });
  setInterval(() => s.write('.'), 100);
}).listen(Number(process.argv[1]), () => console.log('ready'));
`;

const HEARER = `
const net = require('node:net');
net.connect({ host: process.argv[1], port: Number(process.argv[2]) }).on('error', () => {}).resume();
`;

const SINK = `
const net = require('node:net');
const [port, sizeBytes] = process.argv.slice(1).map(Number);
net.createServer((s) => {
  let got = 0, firstAt;
  s.on('error', () => {}).on('data', (d) => {
    firstAt ??= performance.now();
    got += d.length;
    if (got >= sizeBytes) { console.log(performance.now() - firstAt); process.exit(0); }
  });
}).listen(port, () => console.log('ready'));
`;

const SOURCE = `
const net = require('node:net');
const [address, port, sizeBytes] = process.argv.slice(1);
net.connect({ host: address, port: Number(port) }).on('error', () => {}).end(Buffer.alloc(Number(sizeBytes)));
`;

/** One way for bytes to take. */
export interface Transfer {
  readonly from: string;
  readonly to: string;
  /** Of the receiver, as the sender reaches it. */
  readonly address: string;
  readonly port: number;
  readonly sizeBytes: number;
}

/** Sends bytes over TCP; resolves with how many arrived in a second. */
export async function transferRate(transfer: Transfer): Promise<number> {
  const { from, to, address, port, sizeBytes } = transfer;
  const node = (netns: string, program: string, ...args: (string | number)[]) => [
    `--net=/run/netns/${netns}`,
    ...[process.execPath, '-e', program, ...args.map(String)],
  ];
  const sending = new AbortController();
  let source: Promise<unknown> = Promise.resolve();
  try {
    const { stdout } = await runCommand('nsenter', node(to, SINK, port, sizeBytes), {
      timeoutMs: TRANSFER_TIMEOUT_MS,
      onLine: (line) => {
        if (line !== 'ready') return;
        const args = node(from, SOURCE, address, port, sizeBytes);
        const options = { timeoutMs: TRANSFER_TIMEOUT_MS, signal: sending.signal };
        source = runCommand('nsenter', args, options).catch(() => {});
      },
    });
    return sizeBytes / (Number(stdout.split('\n')[1]) / 1000);
  } finally {
    sending.abort();
    await source;
  }
}

/** TCP and UDP on one port of all addresses of a namespace. */
export async function listenIn(netns: string, port: number): Promise<Listener> {
  return await serveIn(netns, LISTENER, String(port));
}

export interface Held {
  /** Resolves with the error by which the one in the guest ends. */
  readonly ended: Promise<string>;
  close(): Promise<void>;
}

/** Resolves once there is a connection from the one namespace to the other, which sends on it now and then. */
export async function holdFrom(from: string, to: string, address: string, port: number): Promise<Held> {
  const stopping = new AbortController();
  const stop = { timeoutMs: TRANSFER_TIMEOUT_MS, signal: stopping.signal };
  const node = (netns: string, program: string, ...args: string[]) => [
    `--net=/run/netns/${netns}`,
    ...[process.execPath, '-e', program, ...args],
  ];
  let hearer: Promise<unknown> = Promise.resolve();
  let connected = () => {};
  const isConnected = new Promise<void>((resolve) => {
    connected = resolve;
  });
  const talker = runCommand('nsenter', node(to, TALKER, String(port)), {
    ...stop,
    onLine: (line) => {
      if (line === 'connected') connected();
      if (line === 'ready') {
        hearer = runCommand('nsenter', node(from, HEARER, address, String(port)), stop).catch(() => {});
      }
    },
  });
  const ended = talker.then(({ stdout }) => stdout.trim().split('\n').at(-1) ?? '');
  // Whoever waits for it is told.
  ended.catch(() => {});
  await Promise.race([isConnected, ended]);
  return {
    ended,
    close: async () => {
      stopping.abort();
      await Promise.all([hearer, talker.catch(() => {})]);
    },
  };
}

export async function probeIn(netns: string, probes: readonly Probe[]): Promise<ProbeResult[]> {
  const argument = JSON.stringify({ probes, timeoutMs: PROBE_TIMEOUT_MS });
  const longestMs = Math.max(...probes.map(({ timeoutMs = PROBE_TIMEOUT_MS }) => timeoutMs));
  const { stdout } = await runCommand(
    'nsenter',
    [`--net=/run/netns/${netns}`, process.execPath, '-e', PROBER, argument],
    { timeoutMs: START_TIMEOUT_MS + longestMs },
  );
  const results: ProbeResult[] = JSON.parse(stdout);
  return results;
}
