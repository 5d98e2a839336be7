/** `npm run bench`: measures, prints a table, takes everything away again. */
import { setMaxListeners } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { startBenchAgent } from './bench-agent.ts';
import { coldBoots, commands, pauses, transfers } from './measure.ts';
import { createReleases } from './releases.ts';
import { describeMachine, rowOf, table } from './report.ts';
import { median } from './samples.ts';

const USAGE = 'usage: npm run bench -- [--json FILE] [--rounds 1…50]\n';
const WHOLE_RUN_MS = 30 * 60_000;

async function main({ rounds, json }: { rounds: number; json: string | undefined }): Promise<void> {
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
    const agent = await startBenchAgent(releases, signal);
    const bench = { agent, releases, rounds, signal, progress };
    const boots = await coldBoots(bench);
    const sandbox = await agent.create(signal);
    const envd = await agent.connectGuest(sandbox);
    const measurements = [
      ...boots.measurements,
      ...(await commands(bench, sandbox, envd)),
      ...(await transfers(bench, sandbox, envd)),
      ...(await pauses(bench, sandbox)),
    ];
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

const { values } = parseArgs({
  options: { json: { type: 'string' }, rounds: { type: 'string', default: '5' } },
});
const rounds = Number(values.rounds);
if (!Number.isInteger(rounds) || rounds < 1 || rounds > 50) {
  process.stderr.write(USAGE);
  process.exit(2);
}
try {
  await main({ rounds, json: values.json });
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
