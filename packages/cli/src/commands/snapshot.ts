/** `wrenn snapshot …`: copies on the disk, to create machines from. */
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { WrennError } from '@wrenn/protocol';
import type { Snapshot } from '@wrenn/protocol/agent';
import { withAgent } from '../agent-connection.ts';
import { eachInTurn } from '../each-in-turn.ts';
import { createRequest, type MachineOptions } from '../options.ts';
import { createProgress, formatDuration, formatTable, printable, printJson } from '../output.ts';
import type { OutputOptions } from './sandbox.ts';

export async function takeSnapshot(sandboxId: string, options: OutputOptions): Promise<void> {
  const progress = createProgress(process.stderr.isTTY === true && options.json !== true);
  await withAgent(async (client) => {
    progress('copying the machine …');
    show((await client.sandboxes.snapshotSandbox({ id: sandboxId })).snapshot, options);
  });
}

/** What machines of a template and size start from; they are quick from the first one on then. */
export async function warmTemplate(
  template: string,
  options: Pick<MachineOptions, 'cpus' | 'memory' | 'disk'> & OutputOptions,
): Promise<void> {
  const { vcpus, memoryMib, diskMib } = createRequest(options, undefined);
  const progress = createProgress(process.stderr.isTTY === true && options.json !== true);
  await withAgent(async (client) => {
    progress('booting a machine and copying it …');
    const size = { ...(vcpus && { vcpus }), ...(memoryMib && { memoryMib }), ...(diskMib && { diskMib }) };
    show((await client.sandboxes.warmTemplate({ template, ...size })).snapshot, options);
  });
}

export async function listSnapshots(options: OutputOptions): Promise<void> {
  await withAgent(async (client) => {
    const { snapshots } = await client.sandboxes.listSnapshots({});
    const views = snapshots.map(viewOf);
    if (options.json) return printJson(views);
    const now = Date.now();
    const rows = views.map((view) => [
      view.id,
      view.template,
      view.sandboxId,
      String(view.vcpus),
      `${view.memoryMib} MiB`,
      view.createdAt === undefined ? '' : formatDuration(now - Date.parse(view.createdAt)),
    ]);
    process.stdout.write(formatTable(['ID', 'TEMPLATE', 'OF', 'CPUS', 'MEMORY', 'AGE'], rows));
  });
}

/** Resolves with the exit code. */
export async function removeSnapshots(ids: readonly string[], options: OutputOptions): Promise<number> {
  return await withAgent((client) =>
    eachInTurn(
      ids,
      options.json === true,
      async (id) => {
        await client.sandboxes.deleteSnapshot({ id });
        return { id };
      },
      ({ id }) => printable(id),
    ),
  );
}

function show(snapshot: Snapshot | undefined, options: OutputOptions): void {
  if (snapshot === undefined) throw new WrennError('internal', 'The agent answered without a snapshot.');
  if (options.json) printJson(viewOf(snapshot));
  else process.stdout.write(`${snapshot.id}\n`);
}

function viewOf({ id, sandboxId, template, vcpus, memoryMib, diskMib, driver, createdAt }: Snapshot) {
  const at = createdAt === undefined ? undefined : new Date(timestampMs(createdAt)).toISOString();
  return { id, sandboxId, template, vcpus, memoryMib, diskMib, driver, createdAt: at };
}
