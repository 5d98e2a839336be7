/**
 * The accounts of this machine, read from /etc/passwd and /etc/group on each change: users may be
 * added while the agent runs. There is no NSS here, only files.
 */
import { readFileSync, statSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';

export interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  /** The primary group first, then the supplementary ones. */
  readonly groups: readonly number[];
  readonly home: string;
  readonly shell: string;
}

export interface Users {
  /** Throws `unauthenticated` for a name that no account has. */
  byName(name: string): User;
  /** The name of a uid or gid, or the number as text where it has none. */
  userName(uid: number): string;
  groupName(gid: number): string;
}

export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

export interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

const ID = /^\d{1,10}$/;

function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !ID.test(text)) return undefined;
  const id = Number(text);
  // The largest id means "leave unchanged" to the setres*id calls, so it can belong to nobody.
  return id < 0xffff_ffff ? id : undefined;
}

/** Lines that are no account (comments, junk) are skipped, as libc does. */
export function parsePasswd(text: string): Account[] {
  return text.split('\n').flatMap((line) => {
    const [name, , uidText, gidText, , home, shell] = line.split(':');
    const uid = parseId(uidText);
    const gid = parseId(gidText);
    if (name === undefined || name === '' || uid === undefined || gid === undefined) return [];
    return [{ name, uid, gid, home: home || '/', shell: shell || '/bin/sh' }];
  });
}

export function parseGroup(text: string): Group[] {
  return text.split('\n').flatMap((line) => {
    const [name, , gidText, members = ''] = line.split(':');
    const gid = parseId(gidText);
    if (name === undefined || name === '' || gid === undefined) return [];
    return [{ name, gid, members: members.split(',').filter((member) => member !== '') }];
  });
}

export function findUser(
  name: string,
  accounts: readonly Account[],
  groups: readonly Group[],
): User | undefined {
  const account = accounts.find((candidate) => candidate.name === name);
  if (account === undefined) return undefined;
  const supplementary = groups.filter((group) => group.members.includes(name)).map((group) => group.gid);
  return { ...account, groups: [...new Set([account.gid, ...supplementary])] };
}

export function createUsers(passwdPath = '/etc/passwd', groupPath = '/etc/group'): Users {
  const accounts = watched(passwdPath, parsePasswd);
  const groups = watched(groupPath, parseGroup);
  return {
    byName: (name) => {
      const user = findUser(name, accounts(), groups());
      if (user === undefined) throw new ConnectError(`invalid username: '${name}'`, Code.Unauthenticated);
      return user;
    },
    userName: (uid) => accounts().find((account) => account.uid === uid)?.name ?? String(uid),
    groupName: (gid) => groups().find((group) => group.gid === gid)?.name ?? String(gid),
  };
}

/** The parsed file; read again when its inode, size or time has changed. A missing file is an empty one. */
function watched<T>(path: string, parse: (text: string) => T[]): () => T[] {
  let seen = '';
  let value: T[] = [];
  return () => {
    const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
    const identity = stats === undefined ? '' : `${stats.ino}:${stats.size}:${stats.mtimeNs}`;
    if (identity !== seen) {
      value = stats === undefined ? [] : parse(readFileSync(path, 'utf8'));
      seen = identity;
    }
    return value;
  };
}
