/** `npm run bench`: measures, prints a table, takes everything away again. */
import { setMaxListeners } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { API_POOL_SIZE, apiMeasurements } from './api.ts';
import { type BenchAgent, type BenchDriver, startBenchAgent } from './bench-agent.ts';
import { type Bench, coldBoots, commands, pauses, transfers } from './measure.ts';
import { describeIdle, type IdleCost } from './memory.ts';
import { createReleases, type Releases } from './releases.ts';
import { describeMachine, type Measurement, rowOf, table } from './report.ts';
import { median } from './samples.ts';
import { forks, hibernations, idleSandboxes } from './snapshots.ts';
import { POOL_SIZE, startsOfAllKinds } from './starts.ts';

const USAGE =
  'usage: npm run bench -- [--json FILE] [--rounds 1…50] [--driver qemu|firecracker] ' +
  '[--creates-only | --snapshots | --idle COUNT | --api]\n';
const WHOLE_RUN_MS = 60 * 60_000;

interface Options {
  readonly rounds: number;
  readonly json: string | undefined;
  readonly driver: BenchDriver;
  readonly createsOnly: boolean;
  readonly snapshots: boolean;
  /** So many idle sandboxes, and nothing else; undefined for another run. */
  readonly idle: number | undefined;
  readonly api: boolean;
}

/** What a run has found, and an agent of it that can tell of the machine. */
interface Found {
  readonly agent: BenchAgent;
  readonly measurements: readonly Measurement[];
  /** Of creates: each way's steps. */
  readonly phasesMs: ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>;
  readonly idle?: readonly IdleCost[];
  /** Starts that were made again, as their guest had died. */
  readonly secondTries?: number;
}

async function main(options: Options): Promise<void> {
  const { rounds, json } = options;
  const interrupted = new AbortController();
  const onSignal = () => interrupted.abort(new Error('interrupted'));
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const timer = setTimeout(() => interrupted.abort(new Error('the run took too long')), WHOLE_RUN_MS);
  const { signal } = interrupted;
  // Every call of the run listens to it, some until they are collected as garbage.
  setMaxListeners(0, signal);
  const releases = createReleases();
  const loadBefore = loadavg();
  try {
    const run = runOf(options);
    const { agent, measurements, phasesMs, idle, secondTries = 0 } = await run(options, releases, signal);
    const machine = await describeMachine(agent.client, loadBefore);
    const phases = [...phasesMs].map(([of, steps]) => ({
      of,
      steps: [...steps].map(([name, samples]) => ({ name, medianMs: median(samples) })),
    }));
    const idleLines = idle === undefined ? [] : describeIdle(idle);
    const phaseLines = phases.map(
      ({ of, steps }) =>
        `${of}: ${steps.map(({ name, medianMs }) => `${name} ${medianMs.toFixed(1)}`).join(', ')} ms`,
    );
    const tableLines = measurements.length === 0 ? [] : [table(measurements), ''];
    const triedLines = secondTries === 0 ? [] : [`${secondTries} starts made again, as their guest had died`];
    process.stdout.write(`${[...tableLines, ...idleLines, ...phaseLines, ...triedLines].join('\n')}\n`);
    process.stdout.write(
      `${machine.cores} × ${machine.cpu}, ${machine.driver}, load ${loadBefore[0]?.toFixed(1)} before and ` +
        `${machine.loadAfter[0]?.toFixed(1)} after\n`,
    );
    if (json !== undefined) {
      const rows = measurements.map((measurement) => ({ ...rowOf(measurement), ...measurement }));
      const result = { at: new Date().toISOString(), machine, rounds, phases, rows, idle, secondTries };
      await mkdir(dirname(json), { recursive: true });
      await writeFile(json, `${JSON.stringify(result, null, 2)}\n`);
    }
  } finally {
    clearTimeout(timer);
    await releases.all();
  }
}

function runOf({ idle, snapshots, api }: Options): typeof usualRun {
  if (idle !== undefined) return idleRun;
  if (snapshots) return snapshotRun;
  return api ? apiRun : usualRun;
}

async function usualRun(
  { driver, rounds, createsOnly }: Options,
  releases: Releases,
  signal: AbortSignal,
): Promise<Found> {
  const agent = await startBenchAgent({ driver }, releases, signal);
  const bench = { agent, releases, rounds, signal, progress };
  const boots = await coldBoots(bench);
  const measurements = [...boots.measurements, ...(createsOnly ? [] : await inSandbox(bench))];
  const { phasesMs, secondTries } = boots;
  return { agent, measurements, phasesMs: new Map([['create', phasesMs]]), secondTries };
}

async function snapshotRun(
  { driver, rounds }: Options,
  releases: Releases,
  signal: AbortSignal,
): Promise<Found> {
  const agent = await startBenchAgent({ driver }, releases, signal);
  const pooled = await startBenchAgent({ driver, number: 2, poolSize: POOL_SIZE }, releases, signal);
  const bench = { agent, pooled, releases, rounds, signal, progress };
  const creates = await startsOfAllKinds(bench);
  const measurements = [...creates.measurements, ...(await hibernations(bench)), ...(await forks(bench))];
  return { agent, measurements, phasesMs: creates.phasesMs, idle: await idleSandboxes(bench) };
}

async function idleRun(
  { driver, rounds, idle }: Options,
  releases: Releases,
  signal: AbortSignal,
): Promise<Found> {
  const agent = await startBenchAgent({ driver }, releases, signal);
  const costs = await idleSandboxes({ agent, rounds, signal, progress }, idle);
  return { agent, measurements: [], phasesMs: new Map(), idle: costs };
}

async function apiRun({ driver, rounds }: Options, releases: Releases, signal: AbortSignal): Promise<Found> {
  const agent = await startBenchAgent({ driver, poolSize: API_POOL_SIZE }, releases, signal);
  const measurements = await apiMeasurements({ agent, releases, rounds, signal, progress });
  return { agent, measurements, phasesMs: new Map() };
}

function progress(line: string): void {
  process.stderr.write(`bench: ${line}\n`);
}

async function inSandbox(bench: Bench): Promise<Measurement[]> {
  const { agent, signal } = bench;
  const sandbox = await agent.create(signal);
  const envd = await agent.connectGuest(sandbox);
  return [
    ...(await commands(bench, sandbox, envd)),
    ...(await transfers(bench, sandbox, envd)),
    ...(await pauses(bench, sandbox)),
  ];
}

const { values } = parseArgs({
  options: {
    json: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    driver: { type: 'string', default: 'qemu' },
    'creates-only': { type: 'boolean', default: false },
    snapshots: { type: 'boolean', default: false },
    idle: { type: 'string' },
    api: { type: 'boolean', default: false },
  },
});
const { json, driver, 'creates-only': createsOnly, snapshots, api } = values;
const rounds = Number(values.rounds);
const idle = values.idle === undefined ? undefined : Number(values.idle);
const known = driver === 'qemu' || driver === 'firecracker';
// Firecracker's driver does not take any yet.
const chosen = [createsOnly, snapshots, api, idle !== undefined].filter(Boolean).length;
const possible = chosen <= 1 && (driver === 'qemu' || !(snapshots || api));
const countable = idle === undefined || (Number.isInteger(idle) && idle >= 1 && idle <= 200);
if (!known || !possible || !countable || !Number.isInteger(rounds) || rounds < 1 || rounds > 50) {
  process.stderr.write(USAGE);
  process.exit(2);
}
try {
  await main({ rounds, json, driver, createsOnly, snapshots, idle, api });
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
// All is taken away; what held the memory of warm templates for the agents keeps Node waiting for minutes.
process.exit();
