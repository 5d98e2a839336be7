/**
 * Firecracker's jailer, which starts it as production does: in a chroot with nothing in it but what it needs, as the
 * sandbox's own user, in the sandbox's network namespace.
 *
 * prlimit → bwrap (stays as the wrapper) → setpriv → jailer → Firecracker, by exec: one process, PID 1 of its
 * namespace.
 *
 * bwrap is around it for three things. The PID namespace: the jailer can make one, but then ends itself, and nobody
 * is told how Firecracker ended. The files: they are bound into the chroot in a mount namespace that goes with the
 * process, read-only where they are, so there is nothing to copy, to link or to unmount. And `no_new_privs`, and fewer capabilities for the jailer.
 *
 *   RUN/jail/<name of the program>/<id>/root/ the chroot: the jailer's own layout; only the agent may write there
 *     firecracker, firecracker.pid, dev/, run/  made by the jailer: a copy of the program, its devices
 *     kernel, initrd, drive-<id>, vmm.fifo    files of the host, bound there
 *     restored.state, restored.memory         the same for a snapshot, instead of kernel and initrd
 *     snapshot.state, snapshot.memory         while one is taken
 *     api.sock                                made by Firecracker; RUN/api.sock leads there, as its path is too long
 */
import { chmod, lchown, mkdir, rm, stat, symlink } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { checkIdentity, checkPaths, findProgram, LIMITS, limitArguments } from '../confinement.ts';
import { takeBackRunDir } from '../run-dir.ts';
import { startWrapped } from '../wrapped-process.ts';
import { type Enclosure, type EnclosureParts, filesInside, largestFile } from './enclosure.ts';

/** In the run directory; everything of a jail is in it. */
export const JAIL_DIR = 'jail';

const SOCKET = '/api.sock';
const LOG_FIFO = '/vmm.fifo';
/** The directories in the chroot that the jailer gives to the user: no place to leave files in. */
const LENT_DIRECTORIES = ['.', 'dev', 'dev/net', 'run'];

/** What the jailer needs to unshare, mount, chroot, make devices, give files away and become the user. */
const CAPABILITIES = [
  'SYS_ADMIN',
  'SYS_CHROOT',
  'MKNOD',
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'SETUID',
  'SETGID',
];

export function createJail(parts: EnclosureParts, jailer: string): Enclosure {
  const { program, spec, files } = parts;
  const base = join(spec.runDir, JAIL_DIR);
  const root = join(base, basename(program), spec.id, 'root');
  const inside = filesInside(parts);
  const binds = [...inside.binds, { from: files.log.fifo, to: LOG_FIFO, readOnly: false }];

  return {
    socket: SOCKET,
    logFifo: LOG_FIFO,
    spec: inside.spec,
    snapshot: inside.snapshot,
    async prepare() {
      await takeBackRunDir(spec.runDir);
      await mkdir(root, { recursive: true, mode: 0o755 });
      await symlink(relative(spec.runDir, join(root, SOCKET)), files.socket);
    },
    async start(args, output, options) {
      checkIdentity({ ...spec, netns: spec.network.netns });
      checkPaths([program, jailer, ...binds.map(({ from }) => from)]);
      const [prlimit, bwrap, setpriv] = await Promise.all([
        findProgram('prlimit'),
        findProgram('bwrap'),
        findProgram('setpriv'),
      ]);
      // The jailer copies the program into the chroot under the same limit.
      const maxFileBytes = Math.max(await largestFile(spec), (await stat(program)).size);
      const commandLine = [
        ...limitArguments(maxFileBytes),
        '--',
        bwrap,
        ...['--info-fd', '3', '--unshare-pid', '--as-pid-1', '--unshare-ipc', '--unshare-uts'],
        ...['--dev-bind', '/', '/', '--proc', '/proc'],
        // Without the first, bwrap leaves root all that it has.
        ...['--cap-drop', 'ALL', ...CAPABILITIES.flatMap((name) => ['--cap-add', `CAP_${name}`])],
        ...binds.flatMap(({ from, to, readOnly }) => [
          readOnly ? '--ro-bind' : '--bind',
          from,
          join(root, to),
        ]),
        ...['--chdir', '/', '--'],
        // bwrap makes what it leaves inheritable, which the jailer has no use for and would pass on.
        ...[setpriv, '--inh-caps=-all', '--ambient-caps=-all', '--'],
        jailer,
        ...['--id', spec.id, '--exec-file', program, '--chroot-base-dir', base],
        ...['--uid', String(spec.uid), '--gid', String(spec.gid)],
        ...['--netns', `/run/netns/${spec.network.netns}`],
        // Its default is twice as many, which it may not raise.
        ...['--resource-limit', `no-file=${LIMITS.nofile}`],
        '--',
        ...args,
      ];
      return startWrapped([prlimit, commandLine], output, options);
    },
    async seal() {
      // Still to be passed through, at every moment: devices are opened meanwhile, and KVM at the start of the guest.
      for (const path of LENT_DIRECTORIES.map((name) => join(root, name))) {
        await chmod(path, 0o710);
        await lchown(path, 0, spec.gid);
      }
      await lchown(join(root, basename(program)), 0, 0);
      // Made where the host has one; nothing of ours uses it.
      await rm(join(root, 'dev/userfaultfd'), { force: true });
    },
  };
}
