/** `wrenn snapshot …`: copies on the disk, to create machines from. */
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { WrennError } from '@wrenn/protocol';
import type { Snapshot } from '@wrenn/protocol/agent';
import { withAgent } from '../agent-connection.ts';
import { eachInTurn } from '../each-in-turn.ts';
import { makeAndTell } from '../make-and-tell.ts';
import { createRequest, type MachineOptions } from '../options.ts';
import {
  createProgress,
  formatDuration,
  formatTable,
  jsonText,
  printable,
  printJson,
  tell,
} from '../output.ts';
import type { OutputOptions } from './sandbox.ts';

/** Resolves with the exit code. */
export async function takeSnapshot(sandboxId: string, options: OutputOptions): Promise<number> {
  const progress = createProgress(process.stderr.isTTY === true && options.json !== true);
  return await withAgent((client) => {
    progress('copying the machine …');
    return makeAndTell({
      say: progress,
      make: async () => existing((await client.sandboxes.snapshotSandbox({ id: sandboxId })).snapshot),
      tell: (snapshot) => tell(textOf(snapshot, options)),
      takeAway: async ({ id }) => void (await client.sandboxes.deleteSnapshot({ id })),
      nameOf: ({ id }) => ({ name: id, command: `wrenn snapshot rm ${id}` }),
    });
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
    const { snapshot } = await client.sandboxes.warmTemplate({ template, ...size });
    process.stdout.write(textOf(existing(snapshot), options));
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

function existing(snapshot: Snapshot | undefined): Snapshot {
  if (snapshot === undefined) throw new WrennError('internal', 'The agent answered without a snapshot.');
  return snapshot;
}

function textOf(snapshot: Snapshot, options: OutputOptions): string {
  return options.json ? jsonText(viewOf(snapshot)) : `${snapshot.id}\n`;
}

function viewOf({ id, sandboxId, template, vcpus, memoryMib, diskMib, driver, createdAt }: Snapshot) {
  const at = createdAt === undefined ? undefined : new Date(timestampMs(createdAt)).toISOString();
  return { id, sandboxId, template, vcpus, memoryMib, diskMib, driver, createdAt: at };
}
