/** Devices for a confined process: those of the host, or nodes of its own where the host's are for root alone. */
import { constants } from 'node:fs';
import { chmod, lchown, lstat, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

const MKNOD_TIMEOUT_MS = 5_000;

/** A device as the confined process finds it, and the node on the host that is bound there. */
export interface DeviceNode {
  readonly path: string;
  readonly node: string;
}

export interface DeviceUser {
  readonly devices: readonly string[];
  readonly uid: number;
  readonly gid: number;
  /** Where nodes are kept that all VMMs use; undefined where each is to have its own. */
  readonly devicesDir?: string | undefined;
  /** Where a node of its own may lie: in the first of these that is a directory and on a file system that allows devices. */
  readonly writablePaths: readonly string[];
}

/**
 * A device that is not for everybody, as /dev/kvm often and /dev/net/tun in containers, is given to the one user by another
 * node: no group, and the host's node stays as it is. It lies in a directory that root alone may pass, so whom it is bound for
 * is who can open it, and stays there for the next VMM: to make one is to start a program.
 *
 * Where there is no such directory, or devices are forbidden in it, the node is the one user's, as Firecracker's jailer does
 * it. It lies in the run directory, so that it goes with that if the agent dies in between, and only until it is bound; where
 * devices are forbidden there, in /dev.
 */
export async function provideDevices(
  user: DeviceUser,
  releases: (() => Promise<void>)[],
): Promise<DeviceNode[]> {
  const nodes: DeviceNode[] = [];
  for (const path of user.devices) {
    const stats = await stat(path).catch((error: unknown) => {
      throw new WrennError('driver_unavailable', `The device ${path} does not exist.`, {
        hint: '`wrenn doctor` says what is missing.',
        cause: error,
      });
    });
    const forAll = (stats.mode & 0o006) === 0o006;
    const node = forAll ? path : await keptNode(path, stats.rdev, user.devicesDir);
    nodes.push({ path, node: node ?? (await makeNode(path, stats.rdev, user, releases)) });
  }
  return nodes;
}

const NODE_MODE = 0o666;
/** By node: those that are being made, and those that cannot be, which is not tried again. */
const attempts = new Map<string, Promise<string | undefined>>();

/** Undefined where it cannot be had. */
async function keptNode(path: string, rdev: number, dir: string | undefined): Promise<string | undefined> {
  if (dir === undefined) return undefined;
  const node = join(dir, path.slice(1).replaceAll('/', '-'));
  const [found, place] = await Promise.all([node, dir].map((at) => lstat(at).catch(() => undefined)));
  const isSound =
    found?.isCharacterDevice() === true && found.rdev === rdev && (found.mode & 0o777) === NODE_MODE;
  // Whoever may pass it could open the node: a directory that was restored from somewhere, say, may be open to all.
  const isClosed = place?.isDirectory() === true && place.uid === 0 && (place.mode & 0o077) === 0;
  if (isSound && isClosed) return node;
  const attempt = attempts.get(node) ?? keepNode(node, rdev, dir);
  attempts.set(node, attempt);
  const made = await attempt;
  if (made !== undefined) attempts.delete(node);
  return made;
}

async function keepNode(node: string, rdev: number, dir: string): Promise<string | undefined> {
  const beside = `${node}.new`;
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await lchown(dir, 0, 0);
    await chmod(dir, 0o700);
    await makeDevice(beside, rdev);
    await chmod(beside, NODE_MODE);
    await rename(beside, node);
    return node;
  } catch {
    // Each VMM has its own then, or says why it cannot.
    await rm(beside, { force: true }).catch(() => {});
    return undefined;
  }
}

/** For root alone. Throws where the file system has no devices. */
async function makeDevice(node: string, rdev: number): Promise<void> {
  const [major, minor] = deviceNumbers(rdev);
  await rm(node, { force: true });
  await runCommand('mknod', ['-m', '0600', '--', node, 'c', String(major), String(minor)], {
    timeoutMs: MKNOD_TIMEOUT_MS,
  });
  // Refused, even to root, where the file system is mounted `nodev`.
  await (await open(node, constants.O_RDWR | constants.O_NONBLOCK)).close();
}

async function makeNode(
  path: string,
  rdev: number,
  { uid, gid, writablePaths }: DeviceUser,
  releases: (() => Promise<void>)[],
): Promise<string> {
  const places = [...(await directoriesAmong(writablePaths)).slice(0, 1), '/dev'];
  let cause: unknown;
  for (const place of places) {
    const node = join(place, `.wrenn-${uid}-${basename(path)}`);
    releases.push(() => rm(node, { force: true }));
    try {
      await makeDevice(node, rdev);
      await lchown(node, uid, gid);
      return node;
    } catch (error) {
      cause = error;
    }
  }
  throw new WrennError('missing_privilege', `${path} cannot be given to the VMM's user.`, {
    hint: `Run: chmod 0666 ${path} (or let the agent make device nodes in /dev)`,
    cause,
  });
}

async function directoriesAmong(paths: readonly string[]): Promise<string[]> {
  const kinds = await Promise.all(
    paths.map(async (path) => (await stat(path).catch(() => undefined))?.isDirectory()),
  );
  return paths.filter((_, index) => kinds[index] === true);
}

/** As gnu_dev_major and gnu_dev_minor of sysmacros.h; device numbers of more than 32 bits do not exist here. */
export function deviceNumbers(rdev: number): [number, number] {
  return [(rdev >>> 8) & 0xfff, (rdev & 0xff) | ((rdev >>> 12) & 0xfff00)];
}
