/** Devices for a confined process: those of the host, or nodes of its own where the host's are for root alone. */
import { constants } from 'node:fs';
import { lchown, open, rm, stat } from 'node:fs/promises';
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
  /** Where a node may lie: in the first of these that is a directory and on a file system that allows devices. */
  readonly writablePaths: readonly string[];
}

/**
 * A device that is not for everybody, as /dev/kvm often and /dev/net/tun in containers, is given to the one
 * user by a node of its own, as Firecracker's jailer does it: no group, and the host's node stays as it is.
 * It lies in the run directory, so that it goes with that if the agent dies in between, and only until it is
 * bound; where devices are forbidden there, in /dev.
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
    nodes.push({ path, node: forAll ? path : await makeNode(path, stats.rdev, user, releases) });
  }
  return nodes;
}

async function makeNode(
  path: string,
  rdev: number,
  { uid, gid, writablePaths }: DeviceUser,
  releases: (() => Promise<void>)[],
): Promise<string> {
  const places = [...(await directoriesAmong(writablePaths)).slice(0, 1), '/dev'];
  const [major, minor] = deviceNumbers(rdev);
  let cause: unknown;
  for (const place of places) {
    const node = join(place, `.wrenn-${uid}-${basename(path)}`);
    releases.push(() => rm(node, { force: true }));
    try {
      await rm(node, { force: true });
      await runCommand('mknod', ['-m', '0600', '--', node, 'c', String(major), String(minor)], {
        timeoutMs: MKNOD_TIMEOUT_MS,
      });
      // Refused, even to root, where the file system is mounted `nodev`.
      await (await open(node, constants.O_RDWR | constants.O_NONBLOCK)).close();
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
