/** `wrenn doctor`: what this machine can do, and the command that mends what it cannot. Changes nothing. */
import { access, constants, mkdtemp, readFile, rm } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import {
  type AgentConfig,
  agentPaths,
  agentSocketPath,
  checkForwarding,
  createAgentClient,
  describeFirecracker,
  firecrackerFromEnv,
  keptKvmVerdict,
  loadConfig,
  probeKvm,
  whyNotOpened,
} from '@wrenn/agent';
import {
  describeCgroups,
  findCgroups,
  freeBytes,
  hasSystemd,
  missingControllers,
  runCommand,
  unitState,
} from '@wrenn/host';
import {
  findBootFiles,
  listTemplates,
  missingSystemPackages,
  NEW_ENOUGH_HINT,
  oldSystemPrograms,
  REQUIRED_PROGRAMS,
} from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers } from '../agent-connection.ts';
import { EXIT } from '../exit-codes.ts';
import { isEmpty, takeInventory } from '../inventory.ts';
import { formatBytes, formatTable, printJson } from '../output.ts';
import { AGENT_UNIT, API_UNIT, unitPath } from '../systemd/units.ts';

export interface DoctorOptions {
  readonly json?: boolean;
  readonly probe?: boolean;
}

type Verdict = 'ok' | 'note' | 'fail';

interface Finding {
  readonly check: string;
  readonly verdict: Verdict;
  readonly found: string;
  /** A command, or what else mends it. */
  readonly mend?: string;
}

const MIN_FREE_BYTES = 5 * 2 ** 30;
const COMMAND_TIMEOUT_MS = 10_000;
const PROBE_TIMEOUT_MS = 60_000;
const SET_UP = 'wrenn setup';

/** Resolves with the exit code: not zero when something that is needed is missing. */
export async function runDoctor(options: DoctorOptions): Promise<number> {
  const config = loadConfig();
  const checks: readonly (() => Promise<Finding[]>)[] = [
    checkNode,
    checkPrivileges,
    checkPrograms,
    checkDevices,
    () => checkKvm(config, options.probe === true),
    checkFirecracker,
    () => checkImages(config),
    () => checkResources(config),
    () => checkCgroups(config),
    () => checkNetwork(config),
    () => checkAgent(config),
    checkServices,
  ];
  const findings: Finding[] = [];
  // One after the other: a check that fails by itself is a finding too.
  for (const check of checks) findings.push(...(await check().catch(asFinding)));
  const healthy = findings.every(({ verdict }) => verdict !== 'fail');
  if (options.json) printJson({ healthy, findings });
  else printFindings(findings);
  return healthy ? EXIT.ok : EXIT.unavailable;
}

function printFindings(findings: readonly Finding[]): void {
  const signs: Readonly<Record<Verdict, string>> = { ok: 'ok', note: 'note', fail: 'FAIL' };
  const rows = findings.map(({ check, verdict, found }) => [signs[verdict], check, found]);
  process.stdout.write(formatTable(['', 'CHECK', 'FOUND'], rows));
  const mends = [...new Set(findings.map(({ mend }) => mend).filter((mend) => mend !== undefined))];
  if (mends.length > 0)
    process.stdout.write(`\nWhat mends it:\n${mends.map((mend) => `  ${mend}\n`).join('')}`);
}

function asFinding(error: unknown): Finding[] {
  const { message, hint } = WrennError.from(error);
  return [
    { check: 'doctor', verdict: 'fail', found: message, ...(hint === undefined ? {} : { mend: hint }) },
  ];
}

async function checkNode(): Promise<Finding[]> {
  return [{ check: 'Node', verdict: 'ok', found: process.versions.node }];
}

async function checkPrivileges(): Promise<Finding[]> {
  const root = process.getuid?.() === 0;
  if (root) return [{ check: 'privileges', verdict: 'ok', found: 'root' }];
  const mend = 'run wrenn with sudo';
  return [{ check: 'privileges', verdict: 'fail', found: 'not root, which the agent needs', mend }];
}

async function checkPrograms(): Promise<Finding[]> {
  const missing = await missingSystemPackages();
  const old = await oldSystemPrograms();
  if (missing.length === 0 && old.length === 0) {
    return [{ check: 'programs', verdict: 'ok', found: `all ${REQUIRED_PROGRAMS.length} are there` }];
  }
  const findings = missing.map(({ program, debianPackage }) => ({
    found: `${program} is missing`,
    mend: `apt-get install --no-install-recommends ${debianPackage}`,
  }));
  findings.push(...old.map((found) => ({ found, mend: NEW_ENOUGH_HINT })));
  return findings.map((finding) => ({ check: 'programs', verdict: 'fail', ...finding }));
}

async function checkDevices(): Promise<Finding[]> {
  const tun = await access('/dev/net/tun', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  const nft = await runCommand('nft', ['list', 'tables'], { timeoutMs: COMMAND_TIMEOUT_MS }).then(
    () => undefined,
    (error: unknown) => WrennError.from(error).message,
  );
  return [
    tun
      ? { check: 'TAP links', verdict: 'ok', found: '/dev/net/tun opens' }
      : {
          check: 'TAP links',
          verdict: 'fail',
          found: '/dev/net/tun does not open',
          mend: 'modprobe tun (as root)',
        },
    nft === undefined
      ? { check: 'nftables', verdict: 'ok', found: 'answers' }
      : { check: 'nftables', verdict: 'fail', found: nft, mend: 'run as root, on a kernel with nf_tables' },
  ];
}

async function checkKvm(config: AgentConfig, probe: boolean): Promise<Finding[]> {
  const paths = agentPaths(config);
  const unopened = await whyNotOpened();
  if (unopened !== undefined) return [{ check: 'KVM', verdict: 'note', found: unopened }];
  if (!probe) {
    const kept = await keptKvmVerdict(paths.wrennDir);
    const found = kept?.reason ?? 'not tried yet; `wrenn doctor --probe` boots a guest with it';
    return [{ check: 'KVM', verdict: kept?.usable === true ? 'ok' : 'note', found }];
  }
  // In a directory of its own, so that nothing is kept: doctor changes nothing.
  const directory = await mkdtemp(join(tmpdir(), 'wrenn-probe-'));
  try {
    const { kernelPath, initrdPath } = await findBootFiles(paths.imagesDir);
    const uid = config.uidBase - 1;
    const signal = AbortSignal.timeout(PROBE_TIMEOUT_MS);
    const timeoutMs = config.timeouts.kvmProbeMs;
    const { usable, reason } = await probeKvm({ kernelPath, initrdPath, directory, uid, timeoutMs, signal });
    return [{ check: 'KVM', verdict: usable ? 'ok' : 'note', found: reason }];
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function checkFirecracker(): Promise<Finding[]> {
  const check = 'Firecracker';
  try {
    const signal = AbortSignal.timeout(COMMAND_TIMEOUT_MS);
    return [{ check, verdict: 'ok', found: await describeFirecracker(firecrackerFromEnv(), signal) }];
  } catch (error) {
    const { message } = WrennError.from(error);
    return [{ check, verdict: 'note', found: `${message} QEMU runs the guests then.` }];
  }
}

async function checkImages(config: AgentConfig): Promise<Finding[]> {
  const { imagesDir } = agentPaths(config);
  const boot = await findBootFiles(imagesDir).catch((error: unknown) => WrennError.from(error));
  const templates = await listTemplates(imagesDir);
  const names = templates.map(({ name, sizeBytes }) => `${name} (${formatBytes(sizeBytes)})`).join(', ');
  return [
    boot instanceof WrennError
      ? { check: 'kernel', verdict: 'fail', found: boot.message, mend: SET_UP }
      : { check: 'kernel', verdict: 'ok', found: boot.kernelPath },
    templates.length === 0
      ? { check: 'templates', verdict: 'fail', found: 'none is built', mend: SET_UP }
      : { check: 'templates', verdict: 'ok', found: names },
  ];
}

async function checkResources(config: AgentConfig): Promise<Finding[]> {
  const place = await access(config.wrennDir).then(
    () => config.wrennDir,
    () => '/',
  );
  const free = await freeBytes(place);
  const available = /^MemAvailable:\s+(\d+) kB/m.exec(await readFile('/proc/meminfo', 'utf8'))?.[1];
  const memory = `${formatBytes(totalmem())}, ${formatBytes(Number(available ?? 0) * 1024)} of it available`;
  return [
    {
      check: 'disk',
      verdict: free < MIN_FREE_BYTES ? 'note' : 'ok',
      found: `${formatBytes(free)} free at ${place}`,
      ...(free < MIN_FREE_BYTES
        ? { mend: 'free some space, or set WRENN_DIR to a directory on a larger disk' }
        : {}),
    },
    { check: 'memory', verdict: 'ok', found: memory },
    { check: 'CPUs', verdict: 'ok', found: String(cpus().length) },
  ];
}

/** Only where `wrenn install` has made them. */
async function checkServices(): Promise<Finding[]> {
  if (!(await hasSystemd())) return [];
  const findings: Finding[] = [];
  for (const unit of [AGENT_UNIT, API_UNIT]) {
    const isThere = await access(unitPath(unit)).then(
      () => true,
      () => false,
    );
    if (!isThere) continue;
    const found = await unitState(unit);
    const mend = `journalctl -u ${unit} tells why; systemctl restart ${unit}`;
    findings.push({
      check: unit,
      verdict: found === 'active' ? 'ok' : 'fail',
      found,
      ...(found === 'active' ? {} : { mend }),
    });
  }
  return findings;
}

/** What can be told by looking; the agent tries it out when it starts. */
async function checkCgroups({ cgroups: { mode } }: AgentConfig): Promise<Finding[]> {
  const check = 'cgroups';
  if (mode === 'off') return [{ check, verdict: 'note', found: 'off: the configuration says so' }];
  const found = await findCgroups();
  const complete = missingControllers(found).length === 0;
  const otherwise = mode === 'required' ? 'fail' : 'note';
  return [{ check, verdict: complete ? 'ok' : otherwise, found: describeCgroups(found) }];
}

async function checkNetwork(config: AgentConfig): Promise<Finding[]> {
  const settings = { ...config.network, owner: config.wrennDir };
  const problems = await checkForwarding(settings, AbortSignal.timeout(COMMAND_TIMEOUT_MS));
  if (problems.length === 0) {
    return [
      {
        check: 'network',
        verdict: 'ok',
        found: `guests can reach the outside; addresses from ${config.network.range}`,
      },
    ];
  }
  return problems.map(({ message, hint }) => ({
    check: 'network',
    verdict: 'note',
    found: message,
    mend: hint,
  }));
}

async function checkAgent(config: AgentConfig): Promise<Finding[]> {
  const socketPath = agentSocketPath(config);
  if (!(await agentAnswers(socketPath))) {
    const left = await takeInventory(config);
    const found = 'not running; the first command that needs it starts it';
    if (isEmpty(left)) return [{ check: 'agent', verdict: 'ok', found }];
    // Sandboxes outlive their agent on purpose; the next one takes them over or away.
    const ids = left.files.length;
    return [
      {
        check: 'agent',
        verdict: 'note',
        found: `not running, with ${ids} sandboxes left; the next agent looks after them`,
      },
    ];
  }
  const client = createAgentClient({ socketPath });
  try {
    const info = await client.agent.getInfo({});
    const found = `pid ${info.pid}, ${info.sandboxes} sandboxes, on ${info.driver} ${info.driverVersion} (${info.accelerator})`;
    return [{ check: 'agent', verdict: 'ok', found }];
  } finally {
    client.close();
  }
}
