/** `wrenn demo`: the life of one machine, from its birth to the proof that nothing is left. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { withAgent } from '../agent-connection.ts';
import { runExecSession } from '../exec-session.ts';
import { catchInterrupts } from '../interrupts.ts';
import { isEmpty, takeInventory } from '../inventory.ts';
import { keepLease, LEASE_MS } from '../lease.ts';
import { createRequest } from '../options.ts';
import { formatDuration } from '../output.ts';
import { viewOf } from '../sandbox-view.ts';

const SCRIPT = [
  'echo "Hello from $(uname -sr) on $(hostname), as $(id -un)."',
  '. /etc/os-release; echo "This is $PRETTY_NAME with $(nproc) CPU and $(free -m | sed -n "s/^Mem: *\\([0-9]*\\).*/\\1/p") MiB of memory."',
  'python3 -c "print(\'Python says:\', sum(range(101)))"',
].join('\n');

/** The kernel takes links away a moment after it said so. */
const SETTLE_MS = 200;

export async function runDemo(options: { readonly template?: string }): Promise<number> {
  const say = (text = '') => process.stdout.write(`${text}\n`);
  const interrupts = catchInterrupts();
  try {
    return await withAgent(async (client, config) => {
      const before = await takeInventory(config);
      const info = await client.agent.getInfo({});
      say(
        `\nThe host agent runs microVMs on ${info.driver} ${info.driverVersion} (${info.accelerator}): ${info.driverReason}`,
      );

      say('\nBooting a machine …');
      const request = createRequest(
        options.template === undefined ? {} : { template: options.template },
        LEASE_MS,
      );
      const { sandbox } = await client.sandboxes.createSandbox(request);
      if (sandbox === undefined) throw new WrennError('internal', 'The agent answered without a sandbox.');
      const lease = keepLease(client, sandbox.id);
      const view = viewOf(sandbox);
      let commandMs: number;
      try {
        for (const phase of view.phases)
          say(`  ${phase.name.padEnd(10)} ${formatDuration(phase.durationMs).padStart(8)}`);
        say(
          `  ${'together'.padEnd(10)} ${formatDuration(view.phases.reduce((sum, { durationMs }) => sum + durationMs, 0)).padStart(8)}`,
        );

        say(`\nRunning a command in ${view.id} …`);
        const startedAt = performance.now();
        const exitCode = await runExecSession(client, {
          sandboxId: view.id,
          command: ['/bin/bash', '-c', SCRIPT],
          envs: {},
          cwd: '',
          user: '',
          timeoutMs: 60_000,
          terminal: false,
          interrupts,
        });
        commandMs = performance.now() - startedAt;
        if (exitCode !== 0) say(`The command ended with code ${exitCode}.`);
        say(`  command    ${formatDuration(commandMs).padStart(8)}`);
      } finally {
        lease.stop();
        const startedAt = performance.now();
        await client.sandboxes.destroySandbox({ id: view.id });
        say(`\nDestroyed in ${formatDuration(performance.now() - startedAt)}.`);
      }

      await sleep(SETTLE_MS);
      const after = await takeInventory(config);
      say('\nWhat is left of it:');
      let leaks = 0;
      for (const kind of ['processes', 'namespaces', 'links', 'rules', 'mounts', 'files'] as const) {
        const left = after[kind].filter((item) => !before[kind].includes(item));
        leaks += left.length;
        say(`  ${kind.padEnd(12)} ${left.length === 0 ? 'none' : left.join(', ')}`);
      }
      if (!isEmpty(before)) say('  (other sandboxes run on this machine; theirs do not count)');
      say(leaks === 0 ? '\nNothing. Try: npx wrenn run -t -- bash' : '\nThat is a leak: please report it.');
      return leaks === 0 ? 0 : 1;
    });
  } finally {
    interrupts.release();
  }
}
