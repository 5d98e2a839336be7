/**
 * Starts a child with exactly a user's uid, gid and groups, and without an extra exec.
 *
 * Credentials belong to a thread in Linux: the JavaScript thread takes the user's on, starts the child
 * (which inherits them, and whose exec drops every capability) and takes root's back. Nothing may be
 * awaited in between, so `action` is synchronous. The saved uid stays 0, which is what allows the way
 * back and keeps the user from tracing this process meanwhile. If the way back fails, this process
 * would go on as somebody else: it aborts instead.
 *
 * In the same window the child gets the OOM score that envd itself was started with (see oom-score.ts).
 */
import { Code, ConnectError } from '@connectrpc/connect';
import { logError } from '../log.ts';
import type { Libc } from './libc.ts';
import type { OomScore } from './oom-score.ts';
import type { User } from './users.ts';

export interface Credentials {
  /** Throws `permission_denied` where this process may not act for the user, else what `action` throws. */
  runAs<T>(user: User, action: () => T): T;
}

const ROOT = 0;

export function createCredentials(libc: Libc, oomScore: OomScore): Credentials {
  const ownUid = process.geteuid?.() ?? ROOT;

  function restore(groups: Uint32Array): void {
    try {
      // The uid first: only root may change the rest.
      libc.call('setresuid', undefined, ROOT, ROOT, ROOT);
      libc.call('setresgid', undefined, ROOT, ROOT, ROOT);
      libc.call('setgroups', undefined, groups.length, groups);
    } catch (error) {
      logError('cannot take back its own credentials, aborting', error);
      process.abort();
    }
  }

  return {
    runAs: (user, action) => {
      if (ownUid !== ROOT) {
        if (ownUid === user.uid) return action();
        throw new ConnectError(`envd is not root, so it cannot act as '${user.name}'`, Code.PermissionDenied);
      }
      const own = ownGroups(libc);
      oomScore.lend();
      try {
        libc.call('setgroups', user.name, user.groups.length, Uint32Array.from(user.groups));
        libc.call('setresgid', user.name, user.gid, user.gid, ROOT);
        libc.call('setresuid', user.name, user.uid, user.uid, ROOT);
        return action();
      } finally {
        restore(own);
        oomScore.takeBack();
      }
    },
  };
}

function ownGroups(libc: Libc): Uint32Array {
  const groups = new Uint32Array(libc.call('getgroups', undefined, 0, 0));
  return groups.subarray(0, libc.call('getgroups', undefined, groups.length, groups));
}
