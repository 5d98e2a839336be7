/** `wrenn install` and `wrenn uninstall`: the agent and the API as services of systemd. */
import { mkdir, readFile, realpath, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { parseEnv } from 'node:util';
import { agentSocketPath, loadConfig } from '@wrenn/agent';
import {
  hasSystemd,
  makeUsers,
  plainEnvironment,
  reloadUnits,
  runCommand,
  systemctl,
  writeFileDurably,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers } from '../agent-connection.ts';
import { giveToApi } from '../api-user.ts';
import { catchInterrupts } from '../interrupts.ts';
import { READER_LEFT } from '../lost-output.ts';
import { keyCommand, serviceEnvironments } from '../systemd/environment.ts';
import { makeRoomForService } from '../systemd/make-room.ts';
import { isUnitUp } from '../systemd/service.ts';
import { isListenedAt, tryToListen, untilServing } from '../systemd/started.ts';
import { takeOver } from '../systemd/take-over.ts';
import {
  AGENT_UNIT,
  API_ENV_FILE,
  API_UNIT,
  API_USER,
  type UnitFile,
  unitFiles,
  unitPath,
} from '../systemd/units.ts';
import { addressLines, explainListen, loadApiConfig } from './api.ts';

const KEY_MS = 60_000;

export interface InstallOptions {
  readonly dryRun?: boolean;
  /** Commander's form of --no-start. */
  readonly start?: boolean;
}

export async function runInstall({ dryRun = false, start = true }: InstallOptions): Promise<void> {
  const config = loadConfig();
  const api = loadApiConfig({});
  const apiDir = dirname(api.store.dataDir);
  const [node, program] = await Promise.all([realpath(process.execPath), realpath(process.argv[1] ?? '')]);
  const socketPath = agentSocketPath(config);
  const kept = await keptApiEnvironment();
  const environments = serviceEnvironments(process.env, kept);
  const files = unitFiles({
    node,
    program,
    socketPath,
    apiDir,
    port: api.listen.port,
    agentEnvironment: environments.agent,
    apiEnvironment: environments.api,
  });
  if (dryRun) {
    for (const { path, text } of files) process.stdout.write(`# ${path}\n${text}\n`);
    return;
  }
  needRoot();
  for (const path of [node, program]) await checkReadable(path);
  if (start && !(await hasSystemd())) throw noSystemd();
  for (const file of files) say(await write(file));
  const [users] = files;
  if (users !== undefined) await makeUsers(users.path);
  giveToApi(apiDir);
  if (!start) {
    say(`not started: \`systemctl daemon-reload && systemctl enable --now ${AGENT_UNIT} ${API_UNIT}\` does`);
    return;
  }
  await reloadUnits();
  await systemctl('enable', [AGENT_UNIT, API_UNIT]);
  const interrupts = catchInterrupts();
  // Each step ends within a bound, and what it has stopped is started again.
  interrupts.onLater = () => {};
  try {
    await takeOver({
      isUp: isUnitUp,
      control: async (action, unit) => await systemctl(action, [unit]),
      prepareAgent: async () => await makeRoomForService(config, interrupts.signal),
      prepareApi: async () => {
        // In the store that the service has, which is one process's at a time.
        const env = { ...plainEnvironment(), ...environments.api, ...kept };
        const { stdout } = await runCommand(node, [program, 'api', '--only-key'], { timeoutMs: KEY_MS, env });
        process.stdout.write(`${addressLines(api).join('\n')}\n${stdout}`);
        // Whoever has the port would be taken for the API.
        await tryToListen(api.listen).catch((error: unknown) => {
          throw explainListen(error, api.listen);
        });
      },
      untilServing: async (unit) => {
        const answers =
          unit === AGENT_UNIT
            ? () => agentAnswers(socketPath)
            : async () => api.listen.port === 0 || (await isListenedAt(api.listen));
        await untilServing(unit, answers, { signal: interrupts.signal });
      },
      say,
      signal: interrupts.signal,
    });
  } catch (error) {
    if (interrupts.exitCode() !== READER_LEFT) throw error;
    process.exitCode = READER_LEFT;
    return;
  } finally {
    interrupts.release();
  }
  say('running, and started with the machine from now on');
  say(`logs: journalctl -u ${AGENT_UNIT} -u ${API_UNIT} -f`);
  const isServer = (kept.DATABASE_URL ?? api.store.databaseUrl) !== undefined;
  say(`another key: ${keyCommand({ node, program, environment: environments.api, kept, isServer })}`);
}

export async function runUninstall({ dryRun = false }: InstallOptions): Promise<void> {
  const paths = [unitPath(API_UNIT), unitPath(AGENT_UNIT), '/etc/sysusers.d/wrenn.conf'];
  if (dryRun) {
    for (const path of paths) process.stdout.write(`${path}\n`);
    return;
  }
  needRoot();
  const there: string[] = [];
  for (const path of paths) if ((await stat(path).catch(() => undefined)) !== undefined) there.push(path);
  const isManaged = await hasSystemd();
  const units = [API_UNIT, AGENT_UNIT].filter((unit) => there.some((path) => path.endsWith(`/${unit}`)));
  if (isManaged && units.length > 0) {
    await systemctl('stop', units);
    await systemctl('disable', units);
  }
  for (const path of there) {
    await rm(path);
    say(`removed ${path}`);
  }
  if (isManaged) await reloadUnits();
  say(
    `sandboxes, images, keys and the user ${API_USER} stay; sandboxes that run go on (\`wrenn sandbox ls\`)`,
  );
}

/** What a DATABASE_URL is in, for one. */
async function keptApiEnvironment(): Promise<Record<string, string>> {
  const text = await readFile(API_ENV_FILE, 'utf8').catch(() => '');
  const entries = Object.entries(parseEnv(text));
  return Object.fromEntries(entries.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}

async function write({ path, text }: UnitFile): Promise<string> {
  if ((await readFile(path, 'utf8').catch(() => '')) === text) return `${path} is as it should be`;
  await mkdir(dirname(path), { recursive: true });
  await writeFileDurably(path, text);
  return `wrote ${path}`;
}

/** The API's user runs it, too. */
async function checkReadable(path: string): Promise<void> {
  for (let place = path; place !== '/'; place = dirname(place)) {
    const { mode } = await stat(place);
    const needed = place === path ? 0o004 : 0o001;
    if ((mode & needed) !== 0) continue;
    throw new WrennError(
      'missing_privilege',
      `The API's user may not read ${path}, as ${place} is closed to others.`,
      {
        hint: 'Install Node and Wrenn where everybody may read them, as in /opt.',
      },
    );
  }
}

function needRoot(): void {
  if (process.geteuid?.() === 0) return;
  throw new WrennError('missing_privilege', 'Only root can install services.', { hint: 'Run it with sudo.' });
}

function noSystemd(): WrennError {
  return new WrennError('driver_unavailable', 'systemd does not run this machine, so it can start nothing.', {
    hint: '`wrenn up` runs both in the foreground; --no-start writes the units all the same.',
  });
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
