/**
 * `wrenn sandbox cp`: files between the host and a sandbox. Here is how the sandbox's are asked for; beside it are the two
 * directions. What was named is followed if it is a link, nothing below it ever is, on either side: neither a checkout that
 * nobody has read nor a guest may choose which files of the host are read or written.
 */
import type { Readable } from 'node:stream';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import type { AgentClient } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import {
  type FileEntry,
  type WriteFileRequest,
  WriteFileRequest_OpenSchema,
  WriteFileRequestSchema,
} from '@wrenn/protocol/agent';

export interface Guest {
  readonly client: Pick<AgentClient, 'guest'>;
  readonly sandboxId: string;
  /** Empty means the template's default user. */
  readonly user: string;
}

/** Of a file's mode; what makes a program run as somebody else is not carried over. */
export const PERMISSIONS = 0o777;

/** Of a link type and mode are those of what it leads to. */
export async function statFile({ client, sandboxId, user }: Guest, path: string): Promise<FileEntry> {
  const { entry } = await client.guest.statFile({ sandboxId, path, user });
  if (entry === undefined) throw new WrennError('internal', 'The agent answered without an entry.');
  return entry;
}

export async function listDirectory({ client, sandboxId, user }: Guest, path: string): Promise<FileEntry[]> {
  return (await client.guest.listFiles({ sandboxId, path, user, depth: 1 })).entries;
}

/** One that is there is taken as it is. */
export async function makeDirectory({ client, sandboxId, user }: Guest, path: string): Promise<void> {
  await client.guest.makeDirectory({ sandboxId, path, user }).catch((error: unknown) => {
    if (!(error instanceof ConnectError && error.code === Code.AlreadyExists)) throw error;
  });
}

export async function* readFile({ client, sandboxId, user }: Guest, path: string): AsyncIterable<Uint8Array> {
  for await (const { data } of client.guest.readFile({ sandboxId, path, user })) yield data;
}

/** The mode is left as it is, or as new files have it, where none is given. */
export async function writeFile(
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
