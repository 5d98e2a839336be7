/** `npm run lab`: boots the laboratory's machine, runs a suite in it, passes its exit code on. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, isAbsolute, join } from 'node:path';
import { parseArgs } from 'node:util';
import { ensureLabImage, wrennDirFromEnv } from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { withFailedFilesAgain } from './again.ts';
import { IMAGES_IN_MACHINE, isProgram, makeDrives, PROGRAMS_IN_MACHINE } from './kit.ts';
import { type LabResult, runLab } from './machine.ts';
import { parseSuite, type Suite, USAGE } from './suites.ts';

const TEMPLATE = 'minimal';
const VCPUS = 2;
const ATTEMPTS = 2;
/** The machine itself ended or hung. A suite that fails has an exit code. */
const MACHINE_FAILED: ReadonlySet<string> = new Set(['vmm_died', 'guest_unreachable']);

interface Options {
  readonly timeoutMinutes: number;
  readonly memoryMib: number;
  readonly report: string | undefined;
  readonly suite: Suite;
}

async function main({ timeoutMinutes, memoryMib, report, suite }: Options): Promise<number> {
  const interrupted = new AbortController();
  const onSignal = () => interrupted.abort();
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal).on('SIGHUP', onSignal);
  const { signal } = interrupted;
  const say = (line: string) => process.stderr.write(`lab: ${line}\n`);
  const wrennDir = wrennDirFromEnv();

  const image = await ensureLabImage({
    wrennDir,
    signal,
    onProgress: ({ step, state, message, elapsedMs }) => {
      if (state !== 'skipped') say(`${step}: ${message} (${(elapsedMs / 1000).toFixed(1)} s)`);
    },
  });
  const firecracker = await findFirecracker();
  const command =
    suite.needsFirecracker && firecracker.length === 0 ? suite.withoutFirecracker : suite.command;
  if (command === undefined) {
    throw new WrennError('missing_program', 'No firecracker was given.', {
      hint: 'Set WRENN_FIRECRACKER to its absolute path, or put it in PATH.',
    });
  }
  if (command !== suite.command) {
    say('no firecracker was given (WRENN_FIRECRACKER, or in PATH): its cases are skipped');
  }
  const environment = {
    ...suite.environment,
    WRENN_DIR: IMAGES_IN_MACHINE,
    CI: 'true',
    NO_COLOR: '1',
    TERM: process.env.TERM ?? 'dumb',
    ...(firecracker.length > 0 ? { WRENN_FIRECRACKER: `${PROGRAMS_IN_MACHINE}/firecracker` } : {}),
  };

  const attempt = async (words: readonly string[]): Promise<LabResult> => {
    const contents = { wrennDir, template: TEMPLATE, programs: firecracker, command: words, environment };
    const directory = await mkdtemp(join(tmpdir(), 'wrlab-'));
    try {
      say('packing the checkout and the images');
      const drives = await makeDrives(directory, process.cwd(), contents, signal);
      say('booting the machine');
      return await runLab({
        image,
        drives,
        directory,
        vcpus: VCPUS,
        memoryMib,
        interactive: suite.interactive,
        timeoutMs: timeoutMinutes * 60_000,
        signal,
        onUp: (afterMs) => say(`the machine is up after ${(afterMs / 1000).toFixed(1)} s`),
      });
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  };

  const runIt = async (words: readonly string[]): Promise<LabResult> => {
    for (let number = 1; ; number += 1) {
      try {
        return await attempt(words);
      } catch (error) {
        const { code, message } = WrennError.from(error);
        if (!MACHINE_FAILED.has(code) || suite.interactive || number >= ATTEMPTS) throw error;
        say(`${message}\nlab: that is the emulator's doing, and says nothing of the suite: once more`);
      }
    }
  };

  const first = await runIt(command);
  const result = suite.isTests ? await withFailedFilesAgain(first, runIt, say) : first;
  if (report !== undefined) await writeFile(report, result.report);
  return result.exitCode;
}

/** Firecracker as WRENN_FIRECRACKER or the PATH has it, with the jailer beside it if there is one. */
async function findFirecracker(): Promise<string[]> {
  const given = process.env.WRENN_FIRECRACKER;
  if (given !== undefined && given !== '') {
    if (!isAbsolute(given) || !(await isProgram(given))) {
      throw new WrennError('missing_program', `WRENN_FIRECRACKER is not a program: ${given}`, {
        hint: 'It must be the absolute path of the Firecracker program.',
      });
    }
    return withJailer(given);
  }
  for (const place of (process.env.PATH ?? '').split(delimiter).filter(isAbsolute)) {
    const path = join(place, 'firecracker');
    if (await isProgram(path)) return withJailer(path);
  }
  return [];
}

async function withJailer(firecracker: string): Promise<string[]> {
  const jailer = join(dirname(firecracker), 'jailer');
  return (await isProgram(jailer)) ? [firecracker, jailer] : [firecracker];
}

/** Options come before the suite; what comes after its name is its own. */
function parseOptions(args: readonly string[]): Options {
  let suiteAt = 0;
  while (args[suiteAt]?.startsWith('--')) suiteAt += args[suiteAt]?.includes('=') ? 1 : 2;
  const values = parseValues(args.slice(0, suiteAt));
  const [timeoutMinutes, memoryMib] = [Number(values['timeout-minutes']), Number(values['memory-mib'])];
  if (!(timeoutMinutes > 0 && timeoutMinutes <= 24 * 60)) throw usage('--timeout-minutes must be 1 to 1440.');
  if (!(memoryMib >= 512 && memoryMib <= 2 ** 20)) throw usage('--memory-mib must be at least 512.');
  return { timeoutMinutes, memoryMib, report: values.report, suite: parseSuite(args.slice(suiteAt)) };
}

function parseValues(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        'timeout-minutes': { type: 'string', default: '60' },
        'memory-mib': { type: 'string', default: '4096' },
        report: { type: 'string' },
      },
    }).values;
  } catch {
    throw usage(`These are no options of the laboratory: ${args.join(' ')}`);
  }
}

function usage(message: string): WrennError {
  return new WrennError('invalid_argument', message, { hint: USAGE });
}

try {
  if (process.argv[2] === '--help') {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  process.exitCode = await main(parseOptions(process.argv.slice(2)));
} catch (error) {
  const { code, message, hint } = WrennError.from(error);
  process.stderr.write(`lab: ${message}\n${hint === undefined ? '' : `${hint}\n`}`);
  process.exitCode = code === 'invalid_argument' ? 2 : 70;
}
