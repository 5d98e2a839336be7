/** Reads the EntryInfo of a path: lstat, names of the owners, where a link leads, metadata. */
import { lstat, readlink, realpath, stat } from 'node:fs/promises';
import type { EntryInfo } from '@wrenn/protocol/filesystem';
import type { Users } from '../sys/users.ts';
import { isType, type SymlinkFacts, toEntryInfo } from './entry-info.ts';
import { readMetadata, type Xattrs } from './metadata.ts';

export interface EntrySources {
  readonly users: Pick<Users, 'userName' | 'groupName'>;
  readonly xattrs: Xattrs;
}

/** Throws the error of lstat, so also for a path that leads nowhere. */
export async function readEntry(path: string, sources: EntrySources): Promise<EntryInfo> {
  const stats = await lstat(path, { bigint: true });
  const mode = Number(stats.mode);
  return toEntryInfo({
    path,
    stats: { mode, sizeBytes: stats.size, modifiedNs: stats.mtimeNs },
    owner: sources.users.userName(Number(stats.uid)),
    group: sources.users.groupName(Number(stats.gid)),
    metadata: readMetadata(sources.xattrs, path),
    symlink: isType(mode, 'symlink') ? await followLink(path) : undefined,
  });
}

/** The same sources, but every name is looked up once: for a listing, whose entries share few owners. */
export function rememberOwners(sources: EntrySources): EntrySources {
  return {
    xattrs: sources.xattrs,
    users: {
      userName: remember((uid) => sources.users.userName(uid)),
      groupName: remember((gid) => sources.users.groupName(gid)),
    },
  };
}

/**
 * Links that lead nowhere, in a circle, or somewhere unreadable are all told by their text, and those without a readable
 * text (some of /proc) by none: one of them must not hide all the others of a listing.
 */
async function followLink(path: string): Promise<SymlinkFacts> {
  try {
    const target = await realpath(path);
    return { target, targetMode: (await stat(target)).mode };
  } catch {
    return { target: await readlink(path).catch(() => ''), targetMode: undefined };
  }
}

function remember(lookUp: (id: number) => string): (id: number) => string {
  const known = new Map<number, string>();
  return (id) => {
    const name = known.get(id) ?? lookUp(id);
    known.set(id, name);
    return name;
  };
}
