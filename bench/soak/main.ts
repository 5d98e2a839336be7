/** `npm run soak`: prints what was found, and ends with 1 where something was. */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { runSoak, type SoakResult } from './soak.ts';

const USAGE =
  'usage: npm run soak -- [--clients N] [--sandboxes N] [--minutes N] [--pause SECONDS] [--ramp SECONDS]\n    [--json FILE]\n';
const GROWTH_MAX = 1.1;
const STOP_MAX_MS = 10_000;
/** All of it by everyone all the time: a client that is starved is a failure. */
const LEAST_PER_MINUTE = 0.5;

const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '200' },
    sandboxes: { type: 'string', default: '10' },
    minutes: { type: 'string', default: '5' },
    pause: { type: 'string', default: '60' },
    ramp: { type: 'string', default: '240' },
    json: { type: 'string' },
  },
});
const [clients, sandboxes, minutes, pauseS, rampS] = [
  values.clients,
  values.sandboxes,
  values.minutes,
  values.pause,
  values.ramp,
].map(Number);
const isCount = (value: number | undefined): value is number => Number.isInteger(value) && Number(value) > 0;
if (
  !isCount(clients) ||
  !isCount(sandboxes) ||
  !(Number(minutes) > 0) ||
  !(Number(pauseS) >= 0) ||
  !(Number(rampS) >= 0)
) {
  process.stderr.write(USAGE);
  process.exit(2);
}
const interrupted = new AbortController();
const onSignal = (): void => interrupted.abort(new Error('interrupted'));
process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
const result = await runSoak({
  clients,
  sandboxes,
  seconds: Number(minutes) * 60,
  pauseS: Number(pauseS),
  rampS: Number(rampS),
  number: 77,
  progress: (line) => process.stderr.write(`soak: ${line}\n`),
  signal: interrupted.signal,
}).catch((error: unknown) => {
  process.stderr.write(`soak: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});
const verdicts = verdictsOf(result);
const lines = [
  `${clients} clients, ${sandboxes} sandboxes, ${minutes} minutes, ${pauseS} s between things of a kind`,
  ...Object.entries(result.done).map(
    ([kind, { count, least, medianMs, slowestMs }]) =>
      `${kind}: ${count}, at least ${least} by each client; median ${medianMs} ms, slowest ${slowestMs} ms`,
  ),
  ...result.errors.slice(0, 20).map((error) => `error: ${error}`),
  ...result.lost.map((what) => `lost: ${what}`),
  ...result.left.map((what) => `left: ${what}`),
  ...verdicts.map(({ what, value, met }) => `${what}: ${value} ${met ? 'met' : 'missed'}`),
];
process.stdout.write(`${lines.join('\n')}\n`);
if (values.json !== undefined) {
  await writeFile(
    values.json,
    `${JSON.stringify({ clients, sandboxes, minutes, pauseS, rampS, verdicts, ...result }, null, 2)}\n`,
  );
}
process.exit(verdicts.every(({ met }) => met) ? 0 : 1);

function verdictsOf({ errors, growth, apiStop, agentStop, left, done }: SoakResult) {
  const least = Math.min(...Object.values(done).map((work) => work.least));
  const grown = (key: keyof typeof growth) => ({
    what: `growth of ${key}`,
    value: growth[key].toFixed(2),
    met: growth[key] <= GROWTH_MAX,
  });
  const stopped = (what: string, { code, tookMs }: SoakResult['apiStop']) => ({
    what: `${what} ends, ms`,
    value: tookMs.toFixed(0),
    met: code === 0 && tookMs <= STOP_MAX_MS,
  });
  return [
    {
      what: 'errors',
      value: String(errors.length),
      met: errors.length === 0,
    },
    {
      what: 'the least of anything by any client',
      value: String(least),
      met: least >= Math.max(1, Math.floor(Number(minutes) * LEAST_PER_MINUTE)),
    },
    grown('apiMib'),
    grown('agentMib'),
    grown('apiFiles'),
    grown('agentFiles'),
    stopped('the API', apiStop),
    stopped('the agent', agentStop),
    { what: 'left behind', value: String(left.length), met: left.length === 0 },
  ];
}
