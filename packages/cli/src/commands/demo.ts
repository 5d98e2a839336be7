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
    const { agentPid, address } = await withAgent(async (client) => ({
      address: await liveOneLife(client, options.template, interrupts),
      agentPid: (await client.agent.getInfo({})).pid,
    }));
    // What this demo started it ends, so that nothing at all is left.
    if (!agentWasThere) await endAgent(config, agentPid);
    const after = await takeInventory(config);
    if (!agentWasThere) return tellWhatIsLeft(before, after);
    const slot = slotNameAt(config.network, address);
    return tellWhatIsLeft(withoutOtherSlots(before), withoutOtherSlots(after, slot));
  } finally {
    interrupts.release();
  }
}

/**
 * An agent that goes on keeps slots ready that are nobody's yet: the machine had one of these, and another was made
 * instead. What may not be left is the machine's own.
 */
function withoutOtherSlots(inventory: Inventory, slot?: string): Inventory {
  const its = (names: readonly string[]) => names.filter((name) => name === slot);
  return { ...inventory, namespaces: its(inventory.namespaces), links: its(inventory.links) };
}

/** Resolves with the address that the machine had. */
async function liveOneLife(
  client: AgentClient,
  template: string | undefined,
  interrupts: Interrupts,
): Promise<string> {
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
  return sandbox.address;
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

function tellWhatIsLeft(before: Inventory, after: Inventory): number {
  say('\nWhat is left of it:');
  let leaks = 0;
  for (const kind of INVENTORY_KINDS) {
    const left = after[kind].filter((item) => !before[kind].includes(item));
    leaks += left.length;
    say(`  ${kind.padEnd(12)} ${left.length === 0 ? 'none' : left.join(', ')}`);
  }
  if (!isEmpty(before)) say('  (other sandboxes of this machine were there before and do not count)');
  say(leaks === 0 ? '\nNothing. Try: npx wrenn run -t -- bash' : '\nThat is a leak: please report it.');
  return leaks === 0 ? 0 : 1;
}
