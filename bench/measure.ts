/** The measurements. Each takes turns with its floor, so that the machine's moods fall on both. */
import type { Sandbox } from '@wrenn/protocol/agent';
import type { EnvdClient } from '../packages/agent/src/envd-client/client.ts';
import type { BenchAgent } from './bench-agent.ts';
import { SPAWN_LOOP } from './guest-programs.ts';
import { VmmEnded } from './raw-boot.ts';
import { bootRawFirecracker } from './raw-firecracker.ts';
import { bootRawQemu } from './raw-qemu.ts';
import { chunksOf, startRawTransfers } from './raw-transfers.ts';
import type { Releases } from './releases.ts';
import type { Measurement } from './report.ts';
import { execByAgent, execByEnvd } from './run-in-guest.ts';
import { timeMs } from './samples.ts';

export interface Bench {
  readonly agent: BenchAgent;
  readonly releases: Releases;
  readonly rounds: number;
  readonly signal: AbortSignal;
  readonly progress: (line: string) => void;
}

/** Of a whole run, for guests that died by themselves. */
const SECOND_TRIES = 2;
const COMMANDS_PER_ROUND = 10;
const TRANSFER_BYTES = 64 * 1024 * 1024;

export interface ColdBoots {
  readonly measurements: Measurement[];
  /** Of every creation: how long each step took. */
  readonly phasesMs: ReadonlyMap<string, readonly number[]>;
  /** How many starts were made again. */
  readonly secondTries: number;
}

/** What a create is compared with. */
interface ColdFloor {
  readonly row: string;
  readonly what: string;
  /** At most so many times the floor's time; undefined is told, and not demanded. */
  readonly ratio?: number;
  boot(): Promise<number>;
}

function coldFloors({ agent, releases, signal }: Bench): ColdFloor[] {
  const row = 'create, until healthy';
  if (agent.driver === 'qemu') {
    const boot = () => bootRawQemu(agent, releases, signal);
    return [{ row, what: 'QEMU by hand', ratio: 1.15, boot }];
  }
  const ways = [
    { row, api: 'with its API', ratio: 1.2 },
    { row: '  against one without an API', api: 'without an API' },
  ] as const;
  return ways.map((way) => ({
    ...way,
    what: `Firecracker by hand, ${way.api}`,
    boot: () => bootRawFirecracker(agent, releases, signal, way.api),
  }));
}

export async function coldBoots(bench: Bench): Promise<ColdBoots> {
  const { agent, rounds, signal, progress } = bench;
  const byAgent: number[] = [];
  const floors = coldFloors(bench).map((floor) => ({ ...floor, samplesMs: [] as number[] }));
  const phasesMs = new Map<string, number[]>();
  let secondTries = 0;
  const again = async <T>(what: string, start: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await start();
      } catch (error) {
        if (signal.aborted || !hasGuestDied(error) || secondTries === SECOND_TRIES) throw error;
        secondTries += 1;
        progress(`${what} is done again, as its guest died: ${String(error)}`);
      }
    }
  };
  const timeFloor = async ({ what, boot, samplesMs }: (typeof floors)[number], round: number) => {
    const ms = await again(what, boot);
    if (round > 0) samplesMs.push(ms);
  };
  const timeCreate = async (round: number): Promise<void> => {
    const { sandbox, ms } = await again('a create', async () => {
      const beganAt = performance.now();
      const created = await agent.create(signal);
      return { sandbox: created, ms: performance.now() - beganAt };
    });
    await agent.destroy(sandbox.id);
    if (round === 0) return;
    byAgent.push(ms);
    for (const { name, duration } of sandbox.phases) {
      const phaseMs = Number(duration?.seconds ?? 0n) * 1000 + (duration?.nanos ?? 0) / 1e6;
      phasesMs.set(name, [...(phasesMs.get(name) ?? []), phaseMs]);
    }
  };
  const starts = [...floors.map((floor) => (round: number) => timeFloor(floor, round)), timeCreate];
  // The first of each fills the page cache, and makes the empty layer that later ones are copies of.
  for (let round = 0; round <= rounds; round += 1) {
    signal.throwIfAborted();
    progress(round === 0 ? 'cold boots: warming up' : `cold boots: round ${round} of ${rounds}`);
    // Each is the first as often as the others: what one leaves to be done meets the next.
    const first = round % starts.length;
    for (const start of [...starts.slice(first), ...starts.slice(0, first)]) await start(round);
  }
  const measurements = floors.map(
    ({ row, what, samplesMs, ratio }): Measurement => ({
      what: row,
      samplesMs: byAgent,
      floor: { what, samplesMs },
      ...(ratio === undefined ? {} : { target: { kind: 'time', ratio } }),
    }),
  );
  return { measurements, phasesMs, secondTries };
}

/** As those of an emulated KVM do now and then (docs/decisions/0012-laboratory.md). */
function hasGuestDied(error: unknown): boolean {
  return error instanceof VmmEnded || (error instanceof Error && error.message.includes('triple fault'));
}

export async function commands(bench: Bench, sandbox: Sandbox, envd: EnvdClient): Promise<Measurement[]> {
  const { agent, rounds, signal, progress } = bench;
  const spawns: number[] = [];
  const byAgent: number[] = [];
  const direct: number[] = [];
  const loop = ['python3', '-c', SPAWN_LOOP, String(COMMANDS_PER_ROUND)];
  for (let round = 0; round <= rounds; round += 1) {
    progress(round === 0 ? 'commands: warming up' : `commands: round ${round} of ${rounds}`);
    const printed = await execByAgent(agent, sandbox.id, loop, signal);
    const inGuest = printed.trim().split('\n').map(Number);
    if (inGuest.length !== COMMANDS_PER_ROUND || inGuest.some(Number.isNaN)) {
      throw new Error(`the guest printed no times: ${printed.slice(0, 200)}`);
    }
    const agentMs: number[] = [];
    const envdMs: number[] = [];
    for (let i = 0; i < COMMANDS_PER_ROUND; i += 1) {
      agentMs.push(await timeMs(() => execByAgent(agent, sandbox.id, ['/bin/true'], signal)));
      envdMs.push(await timeMs(() => execByEnvd(envd, ['/bin/true'], signal)));
    }
    if (round === 0) continue;
    spawns.push(...inGuest);
    byAgent.push(...agentMs);
    direct.push(...envdMs);
  }
  const floor = { what: 'posix_spawn in the guest', samplesMs: spawns };
  const target = { kind: 'time', ratio: 1.3 } as const;
  return [
    { what: 'exec /bin/true, by the agent', samplesMs: byAgent, floor, target },
    { what: 'exec /bin/true, straight to envd', samplesMs: direct, floor, target },
  ];
}

export async function transfers(bench: Bench, sandbox: Sandbox, envd: EnvdClient): Promise<Measurement[]> {
  const { rounds, signal, progress } = bench;
  const path = '/tmp/bench';
  const serving = new AbortController();
  const raw = await startRawTransfers(
    sandbox.address,
    envd,
    TRANSFER_BYTES,
    AbortSignal.any([signal, serving.signal]),
  );
  const upload = () => envd.writeFile(path, undefined, chunksOf(TRANSFER_BYTES), signal);
  const download = async (): Promise<void> => {
    let sizeBytes = 0;
    for await (const chunk of await envd.readFile(path, undefined, signal)) sizeBytes += chunk.length;
    if (sizeBytes !== TRANSFER_BYTES) throw new Error(`the download has ${sizeBytes} bytes`);
  };
  const ways = [
    { name: 'up', run: upload },
    { name: 'rawUp', run: () => raw.up('u') },
    { name: 'rawUpFile', run: () => raw.up('U') },
    { name: 'down', run: download },
    { name: 'rawDown', run: () => raw.down('d') },
    { name: 'rawDownFile', run: () => raw.down('D') },
  ] as const;
  const samples: Record<(typeof ways)[number]['name'], number[]> = {
    up: [],
    rawUp: [],
    rawUpFile: [],
    down: [],
    rawDown: [],
    rawDownFile: [],
  };
  try {
    for (let round = 0; round <= rounds; round += 1) {
      progress(round === 0 ? 'transfers: warming up' : `transfers: round ${round} of ${rounds}`);
      for (const { name, run } of ways) {
        signal.throwIfAborted();
        const ms = await timeMs(run);
        if (round > 0) samples[name].push(ms);
      }
    }
  } finally {
    serving.abort();
  }
  const sizeBytes = TRANSFER_BYTES;
  const target = { kind: 'speed', ratio: 0.8 } as const;
  const against = (what: string, samplesMs: number[]) => ({ floor: { what, samplesMs }, sizeBytes });
  return [
    {
      what: 'upload of 64 MiB',
      samplesMs: samples.up,
      target,
      ...against('TCP into nothing', samples.rawUp),
    },
    {
      what: '  TCP into a file',
      samplesMs: samples.rawUpFile,
      ...against('TCP into nothing', samples.rawUp),
    },
    {
      what: 'download of 64 MiB',
      samplesMs: samples.down,
      target,
      ...against('TCP from a file', samples.rawDownFile),
    },
    {
      what: '  TCP from memory',
      samplesMs: samples.rawDown,
      ...against('TCP from a file', samples.rawDownFile),
    },
  ];
}

export async function pauses(
  { agent, rounds, signal, progress }: Bench,
  { id }: Sandbox,
): Promise<Measurement[]> {
  progress('pause and resume');
  const pause: number[] = [];
  const resume: number[] = [];
  const { sandboxes } = agent.client;
  const options = { signal, timeoutMs: 60_000 };
  for (let round = 0; round <= rounds; round += 1) {
    const pauseMs = await timeMs(() => sandboxes.pauseSandbox({ id }, options));
    const resumeMs = await timeMs(() => sandboxes.resumeSandbox({ id }, options));
    if (round === 0) continue;
    pause.push(pauseMs);
    resume.push(resumeMs);
  }
  return [
    { what: 'pause', samplesMs: pause },
    { what: 'resume', samplesMs: resume },
  ];
}
