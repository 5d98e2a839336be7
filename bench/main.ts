/** `npm run bench`: measures, prints a table, takes everything away again. */
import { setMaxListeners } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { type BenchDriver, startBenchAgent } from './bench-agent.ts';
import { type Bench, coldBoots, commands, pauses, transfers } from './measure.ts';
import { createReleases } from './releases.ts';
import { describeMachine, type Measurement, rowOf, table } from './report.ts';
import { median } from './samples.ts';

const USAGE =
  'usage: npm run bench -- [--json FILE] [--rounds 1…50] [--driver qemu|firecracker] [--creates-only]\n';
const WHOLE_RUN_MS = 60 * 60_000;

interface Options {
  readonly rounds: number;
  readonly json: string | undefined;
  readonly driver: BenchDriver;
  readonly createsOnly: boolean;
}

async function main({ rounds, json, driver, createsOnly }: Options): Promise<void> {
  const interrupted = new AbortController();
  const onSignal = () => interrupted.abort(new Error('interrupted'));
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const timer = setTimeout(() => interrupted.abort(new Error('the run took too long')), WHOLE_RUN_MS);
  const { signal } = interrupted;
  // Every call of the run listens to it, some until they are collected as garbage.
  setMaxListeners(0, signal);
  const releases = createReleases();
  const loadBefore = loadavg();
  const progress = (line: string) => process.stderr.write(`bench: ${line}\n`);
  try {
    const agent = await startBenchAgent(driver, releases, signal);
    const bench = { agent, releases, rounds, signal, progress };
    const boots = await coldBoots(bench);
    const measurements = [...boots.measurements, ...(createsOnly ? [] : await inSandbox(bench))];
    const machine = await describeMachine(agent.client, loadBefore);
    const phases = [...boots.phasesMs].map(([name, samples]) => ({ name, medianMs: median(samples) }));
    process.stdout.write(`${table(measurements)}\n\n`);
    process.stdout.write(
      `create: ${phases.map(({ name, medianMs }) => `${name} ${medianMs.toFixed(1)}`).join(', ')} ms\n`,
    );
    process.stdout.write(
      `${machine.cores} × ${machine.cpu}, ${machine.driver}, load ${loadBefore[0]?.toFixed(1)} before and ` +
        `${machine.loadAfter[0]?.toFixed(1)} after\n`,
    );
    if (json !== undefined) {
      const rows = measurements.map((measurement) => ({ ...rowOf(measurement), ...measurement }));
      await mkdir(dirname(json), { recursive: true });
      await writeFile(
        json,
        `${JSON.stringify({ at: new Date().toISOString(), machine, rounds, phases, rows }, null, 2)}\n`,
      );
    }
  } finally {
    clearTimeout(timer);
    await releases.all();
  }
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
  },
});
const { json, driver, 'creates-only': createsOnly } = values;
const rounds = Number(values.rounds);
const known = driver === 'qemu' || driver === 'firecracker';
if (!known || !Number.isInteger(rounds) || rounds < 1 || rounds > 50) {
  process.stderr.write(USAGE);
  process.exit(2);
}
try {
  await main({ rounds, json, driver, createsOnly });
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
