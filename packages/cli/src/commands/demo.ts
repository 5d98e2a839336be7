/** `wrenn demo`: the life of one machine, from its birth to the proof that nothing is left. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentClient, type AgentConfig, agentSocketPath, loadConfig, slotNameAt } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers, withAgent } from '../agent-connection.ts';
import { runExecSession } from '../exec-session.ts';
import { catchInterrupts, type Interrupts } from '../interrupts.ts';
import { INVENTORY_KINDS, type Inventory, isEmpty, takeInventory } from '../inventory.ts';
import { keepLease, LEASE_MS } from '../lease.ts';
import { createRequest } from '../options.ts';
import { formatDuration } from '../output.ts';
import { viewOf } from '../sandbox-view.ts';

const SCRIPT = [
  'echo "Hello from $(uname -sr) on $(hostname), as $(id -un)."',
  '. /etc/os-release; echo "This is $PRETTY_NAME with $(nproc) CPU and $(free -m | sed -n "s/^Mem: *\\([0-9]*\\).*/\\1/p") MiB of memory."',
  'python3 -c "print(\'Python says:\', sum(range(101)))"',
].join('\n');

const COMMAND_TIMEOUT_MS = 120_000;
const AGENT_END_MS = 15_000;
const POLL_MS = 50;

const say = (text = '') => process.stdout.write(`${text}\n`);
const sayRow = (name: string, ms: number) => say(`  ${name.padEnd(10)} ${formatDuration(ms).padStart(8)}`);

/** Resolves with the exit code: 1 when anything of the machine is left. */
export async function runDemo(options: { readonly template?: string }): Promise<number> {
  const config = loadConfig();
  const agentWasThere = await agentAnswers(agentSocketPath(config));
  const before = await takeInventory(config);
  const interrupts = catchInterrupts();
  try {
    const { agentPid, id, address } = await withAgent(async (client) => ({
      ...(await liveOneLife(client, options.template, interrupts)),
      agentPid: (await client.agent.getInfo({})).pid,
    }));
    // What this demo started it ends, so that nothing at all is left.
    if (!agentWasThere) await endAgent(config, agentPid);
    const after = await takeInventory(config);
    const slot = slotNameAt(config.network, address);
    // An agent that goes on does things of its own meanwhile: it makes another slot ready, or the template warm.
    const left = agentWasThere
      ? partOf(after, (item) => item === slot || item.includes(id))
      : partOf(after, (item, kind) => !before[kind].includes(item));
    return tellWhatIsLeft(left, before.files.length > 0);
  } catch (error) {
    const exitCode = interrupts.exitCode();
    if (exitCode !== undefined) return exitCode;
    throw error;
  } finally {
    interrupts.release();
  }
}

function partOf(inventory: Inventory, isWanted: (item: string, kind: keyof Inventory) => boolean): Inventory {
  const parts = INVENTORY_KINDS.map(
    (kind) => [kind, inventory[kind].filter((item) => isWanted(item, kind))] as const,
  );
  return { ...inventory, ...Object.fromEntries(parts) };
}

/** Resolves with what the machine was known by. */
async function liveOneLife(
  client: AgentClient,
  template: string | undefined,
  interrupts: Interrupts,
): Promise<{ id: string; address: string }> {
  const info = await client.agent.getInfo({});
  say(`\nThe host agent runs microVMs on ${info.driver} ${info.driverVersion} (${info.accelerator}).`);
  say(`  ${info.driverReason}`);

  say('\nBooting a machine …');
  const { sandbox } = await client.sandboxes.createSandbox(
    createRequest(template === undefined ? {} : { template }, LEASE_MS),
  );
  if (sandbox === undefined) throw new WrennError('internal', 'The agent answered without a sandbox.');
  const lease = keepLease(client, sandbox.id);
  const { id, phases } = viewOf(sandbox);
  try {
    for (const { name, durationMs } of phases) sayRow(name, durationMs);
    sayRow(
      'together',
      phases.reduce((sum, { durationMs }) => sum + durationMs, 0),
    );

    say(`\nRunning a command in ${id} …`);
    const startedAt = performance.now();
    const exitCode = await runExecSession(client, {
      sandboxId: id,
      command: ['/bin/bash', '-c', SCRIPT],
      envs: {},
      cwd: '',
      user: '',
      timeoutMs: COMMAND_TIMEOUT_MS,
      stdin: false,
      terminal: false,
      interrupts,
    });
    if (exitCode !== 0) throw new WrennError('command_failed', `The command ended with code ${exitCode}.`);
    sayRow('command', performance.now() - startedAt);
  } finally {
    lease.stop();
    const startedAt = performance.now();
    await client.sandboxes.destroySandbox({ id });
    say('\nDestroying it …');
    sayRow('destroy', performance.now() - startedAt);
  }
  return { id, address: sandbox.address };
}

async function endAgent(config: AgentConfig, pid: number): Promise<void> {
  process.kill(pid, 'SIGTERM');
  const deadline = performance.now() + AGENT_END_MS;
  while (isRunning(pid) && performance.now() < deadline) await sleep(POLL_MS);
  if (isRunning(pid))
    throw new WrennError('deadline_exceeded', `The agent (pid ${pid}) of ${config.wrennDir} did not end.`);
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function tellWhatIsLeft(left: Inventory, othersWereThere: boolean): number {
  say('\nWhat is left of it:');
  for (const kind of INVENTORY_KINDS) {
    say(`  ${kind.padEnd(12)} ${left[kind].length === 0 ? 'none' : left[kind].join(', ')}`);
  }
  if (othersWereThere) say('  (other sandboxes of this machine were there before and do not count)');
  const isClean = isEmpty(left);
  say(isClean ? '\nNothing. Try: npx wrenn run -t -- bash' : '\nThat is a leak: please report it.');
  return isClean ? 0 : 1;
}
