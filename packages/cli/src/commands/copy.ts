/** `wrenn sandbox cp`: files and directories between the host and a sandbox, and through pipes. */
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, mkdir, readdir, stat } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import type { AgentClient } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import {
  type FileEntry,
  FileEntry_Type,
  type WriteFileRequest,
  WriteFileRequest_OpenSchema,
  WriteFileRequestSchema,
} from '@wrenn/protocol/agent';
import { withAgent } from '../agent-connection.ts';
import { parseCopyPlace } from '../values.ts';

const CHUNK_BYTES = 256 * 1024;
const PERMISSIONS = 0o777;

interface Guest {
  readonly client: AgentClient;
  readonly sandboxId: string;
  readonly user: string;
}

export async function copy(from: string, to: string, options: { readonly user?: string }): Promise<void> {
  const [source, target] = [parseCopyPlace(from), parseCopyPlace(to)];
  const user = options.user ?? '';
  if (target.kind === 'sandbox' && source.kind !== 'sandbox') {
    await withAgent(async (client) => {
      const guest = { client, sandboxId: target.id, user };
      if (source.kind === 'standard') await sendStream(guest, process.stdin, target.path, undefined);
      else await send(guest, source.path, await placeIn(guest, target.path, source.path));
    });
  } else if (source.kind === 'sandbox' && target.kind !== 'sandbox') {
    await withAgent(async (client) => {
      const guest = { client, sandboxId: source.id, user };
      if (target.kind === 'standard')
        await pipeline(receive(guest, source.path), process.stdout, { end: false });
      else await fetch(guest, await statIn(guest, source.path), await placeOnHost(target.path, source.path));
    });
  } else {
    throw new WrennError(
      'invalid_argument',
      'One of the two places must be in a sandbox, the other one outside.',
      {
        hint: 'wrenn sandbox cp ./file <id>:/home/user/   or   wrenn sandbox cp <id>:/etc/os-release -',
      },
    );
  }
}

/** As cp does: into a directory that is there, else under the name that was given. */
async function placeIn(guest: Guest, path: string, source: string): Promise<string> {
  const entry = await guest.client.guest
    .statFile({ sandboxId: guest.sandboxId, path, user: guest.user })
    .then(({ entry: found }) => found)
    .catch((error: unknown) => {
      if (error instanceof ConnectError && error.code === Code.NotFound && !path.endsWith('/'))
        return undefined;
      if (error instanceof ConnectError && error.code === Code.NotFound) return 'new directory' as const;
      throw error;
    });
  const into = entry === 'new directory' || entry?.type === FileEntry_Type.DIRECTORY;
  return into ? posix.join(path, basename(source)) : path;
}

async function placeOnHost(path: string, source: string): Promise<string> {
  const isDirectory = await stat(path).then(
    (found) => found.isDirectory(),
    () => path.endsWith('/'),
  );
  return isDirectory ? join(path, posix.basename(source)) : path;
}

async function send(guest: Guest, path: string, target: string): Promise<void> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new WrennError('file_not_found', `${path} does not exist or cannot be read.`, { cause });
  });
  if (found.isDirectory()) {
    await makeDirectory(guest, target);
    for (const name of await readdir(path)) await send(guest, join(path, name), posix.join(target, name));
  } else if (found.isFile()) {
    await sendStream(
      guest,
      createReadStream(path, { highWaterMark: CHUNK_BYTES }),
      target,
      found.mode & PERMISSIONS,
    );
  } else {
    throw new WrennError('invalid_path', `${path} is neither a file nor a directory.`);
  }
}

async function makeDirectory({ client, sandboxId, user }: Guest, path: string): Promise<void> {
  await client.guest.makeDirectory({ sandboxId, path, user }).catch((error: unknown) => {
    if (!(error instanceof ConnectError && error.code === Code.AlreadyExists)) throw error;
  });
}

async function sendStream(
  { client, sandboxId, user }: Guest,
  stream: Readable,
  path: string,
  mode: number | undefined,
): Promise<void> {
  async function* messages(): AsyncIterable<WriteFileRequest> {
    const open = create(WriteFileRequest_OpenSchema, { sandboxId, path, user });
    if (mode !== undefined) open.mode = mode;
    yield create(WriteFileRequestSchema, { message: { case: 'open', value: open } });
    for await (const chunk of stream) {
      yield create(WriteFileRequestSchema, { message: { case: 'data', value: chunk as Buffer } });
    }
  }
  try {
    await client.guest.writeFile(messages());
  } finally {
    // Refused before its end, nobody reads the rest: standard input would hold the program as long as it is open.
    stream.destroy();
  }
}

async function statIn({ client, sandboxId, user }: Guest, path: string): Promise<FileEntry> {
  const { entry } = await client.guest.statFile({ sandboxId, path, user });
  if (entry === undefined) throw new WrennError('internal', 'The agent answered without an entry.');
  return entry;
}

async function fetch(guest: Guest, entry: FileEntry, target: string): Promise<void> {
  if (entry.type === FileEntry_Type.DIRECTORY) {
    await mkdir(target, { recursive: true });
    const { client, sandboxId, user } = guest;
    const { entries } = await client.guest.listFiles({ sandboxId, path: entry.path, user, depth: 1 });
    for (const child of entries) await fetch(guest, child, join(target, safeName(child.name)));
    return;
  }
  await pipeline(receive(guest, entry.path), createWriteStream(target));
  await chmod(target, entry.mode & PERMISSIONS);
}

/** A guest chooses the names of its files; one must not lead out of the directory that is written to. */
function safeName(name: string): string {
  if (name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name)) return name;
  throw new WrennError(
    'invalid_path',
    `The sandbox has a file named ${JSON.stringify(name)}, which is not copied.`,
  );
}

function receive({ client, sandboxId, user }: Guest, path: string): Readable {
  async function* chunks(): AsyncIterable<Uint8Array> {
    for await (const { data } of client.guest.readFile({ sandboxId, path, user })) yield data;
  }
  return Readable.from(chunks(), { objectMode: false });
}
