/** `wrenn sandbox …`: the life cycle of sandboxes, each command one call of the agent. */
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { AgentClient } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import type { Sandbox } from '@wrenn/protocol/agent';
import { withAgent } from '../agent-connection.ts';
import { eachInTurn } from '../each-in-turn.ts';
import { makeAndTell } from '../make-and-tell.ts';
import { createRequest, type MachineOptions, type NetworkOptions, networkOf, timeoutOf } from '../options.ts';
import { createProgress, formatTable, jsonText, printable, printJson, tell, writeInTurn } from '../output.ts';
import { detailRows, LIST_HEADER, listRow, viewOf } from '../sandbox-view.ts';
import { parseCount, parseDurationMs } from '../values.ts';

export interface OutputOptions {
  readonly json?: boolean;
}

/** Resolves with the exit code, as all that make something or take several ids do. */
export async function createSandbox(
  options: MachineOptions & NetworkOptions & OutputOptions & { timeout?: string },
): Promise<number> {
  const request = createRequest(options, timeoutOf(options));
  const progress = createProgress(process.stderr.isTTY === true && options.json !== true);
  return await withAgent((client) => {
    progress('making a machine …');
    return makeSandboxes(
      client,
      progress,
      async () => [existing((await client.sandboxes.createSandbox(request)).sandbox)],
      (made) => (options.json ? made.map((sandbox) => jsonText(viewOf(sandbox))).join('') : idLines(made)),
    );
  });
}

export async function listSandboxes(options: OutputOptions): Promise<void> {
  await withAgent(async (client) => {
    const { sandboxes } = await client.sandboxes.listSandboxes({});
    const views = sandboxes.map(viewOf);
    if (options.json) return printJson(views);
    const now = Date.now();
    process.stdout.write(
      formatTable(
        LIST_HEADER,
        views.map((view) => listRow(view, now)),
      ),
    );
  });
}

export async function getSandbox(id: string, options: OutputOptions): Promise<void> {
  await withAgent(async (client) => {
    const view = viewOf(existing((await client.sandboxes.getSandbox({ id })).sandbox));
    if (options.json) return printJson(view);
    process.stdout.write(formatTable(['id', view.id], detailRows(view)));
  });
}

export async function pauseSandboxes(ids: readonly string[], options: OutputOptions): Promise<number> {
  return await eachOf(ids, options, 'pausing', (client, id) => client.sandboxes.pauseSandbox({ id }));
}

export async function resumeSandboxes(ids: readonly string[], options: OutputOptions): Promise<number> {
  return await eachOf(ids, options, 'resuming', (client, id) => client.sandboxes.resumeSandbox({ id }));
}

export async function hibernateSandboxes(ids: readonly string[], options: OutputOptions): Promise<number> {
  return await eachOf(ids, options, 'writing the memory of', (client, id) =>
    client.sandboxes.hibernateSandbox({ id }),
  );
}

async function eachOf(
  ids: readonly string[],
  options: OutputOptions,
  doing: string,
  act: (client: AgentClient, id: string) => Promise<{ readonly sandbox?: Sandbox | undefined }>,
): Promise<number> {
  const progress = createProgress(process.stderr.isTTY === true && options.json !== true);
  return await withAgent((client) =>
    eachInTurn(
      ids,
      options.json === true,
      async (id) => {
        progress(`${doing} ${printable(id)} …`);
        return viewOf(existing((await act(client, id)).sandbox));
      },
      ({ id }) => id,
    ),
  );
}

export async function forkSandbox(
  id: string,
  options: OutputOptions & { readonly count?: string; readonly timeout?: string },
): Promise<number> {
  const count = options.count === undefined ? 1 : parseCount(options.count, '--count');
  const timeoutMs = timeoutOf(options);
  const timeout = timeoutMs === undefined ? {} : { timeout: durationFromMs(timeoutMs) };
  const progress = createProgress(process.stderr.isTTY === true && options.json !== true);
  return await withAgent((client) => {
    progress('copying the machine …');
    return makeSandboxes(
      client,
      progress,
      async () => (await client.sandboxes.forkSandbox({ id, count, ...timeout })).sandboxes,
      (copies) => (options.json ? jsonText(copies.map(viewOf)) : idLines(copies)),
    );
  });
}

export async function killSandboxes(ids: readonly string[], options: OutputOptions): Promise<number> {
  return await withAgent((client) =>
    eachInTurn(
      ids,
      options.json === true,
      async (id) => {
        await client.sandboxes.destroySandbox({ id });
        return { id };
      },
      ({ id }) => printable(id),
    ),
  );
}

/** `never` takes the end away. */
export async function setTimeoutOfSandbox(
  id: string,
  duration: string,
  options: OutputOptions,
): Promise<void> {
  const timeout =
    duration === 'never' ? {} : { timeout: durationFromMs(parseDurationMs(duration, 'duration')) };
  await withAgent(async (client) => {
    show((await client.sandboxes.setSandboxTimeout({ id, ...timeout })).sandbox, options);
  });
}

export async function setNetworkOfSandbox(
  id: string,
  options: NetworkOptions & OutputOptions,
): Promise<void> {
  const network = networkOf(options);
  await withAgent(async (client) => {
    show((await client.sandboxes.updateSandboxNetwork({ id, network })).sandbox, options);
  });
}

export async function printLogs(id: string, options: { readonly follow?: boolean }): Promise<void> {
  await withAgent(async (client) => {
    for await (const { data } of client.sandboxes.streamLogs({ id, follow: options.follow === true })) {
      // What a guest prints on its console is for reading, not for driving this terminal.
      const text = new TextDecoder().decode(data).split('\n').map(printable).join('\n');
      await writeInTurn(process.stdout, text);
    }
  });
}

async function makeSandboxes(
  client: AgentClient,
  say: (message: string) => void,
  make: () => Promise<readonly Sandbox[]>,
  textOf: (made: readonly Sandbox[]) => string,
): Promise<number> {
  return await makeAndTell({
    say,
    make,
    tell: (made) => tell(textOf(made)),
    takeAway: async (made) => {
      const destroyed = made.map(({ id }) => client.sandboxes.destroySandbox({ id }));
      for (const outcome of await Promise.allSettled(destroyed)) {
        if (outcome.status === 'rejected') throw outcome.reason;
      }
    },
    nameOf: (made) => {
      const ids = made.map(({ id }) => id);
      return { name: ids.join(', '), command: `wrenn sandbox kill ${ids.join(' ')}` };
    },
  });
}

function idLines(sandboxes: readonly Sandbox[]): string {
  return sandboxes.map(({ id }) => `${id}\n`).join('');
}

function show(sandbox: Sandbox | undefined, options: OutputOptions): void {
  const view = viewOf(existing(sandbox));
  if (options.json) printJson(view);
  else process.stdout.write(`${view.id}\n`);
}

function existing(sandbox: Sandbox | undefined): Sandbox {
  if (sandbox === undefined) throw new WrennError('internal', 'The agent answered without a sandbox.');
  return sandbox;
}
