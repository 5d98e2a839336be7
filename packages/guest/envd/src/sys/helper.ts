/** A system program that envd runs for itself: as root, without input or output, and for a limited time. */
import type { Credentials } from './credentials.ts';
import type { User } from './users.ts';

const ROOT: User = { name: 'root', uid: 0, gid: 0, groups: [0], home: '/root', shell: '/bin/sh' };

/** Unlike envd itself, it may be killed when memory runs out. */
export function startHelper(
  credentials: Credentials,
  command: readonly string[],
  timeoutMs: number,
): Bun.Subprocess {
  return credentials.runAs(ROOT, () =>
    Bun.spawn([...command], {
      cwd: '/',
      env: { PATH: process.env.PATH ?? '' },
      stdio: ['ignore', 'ignore', 'ignore'],
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    }),
  );
}
