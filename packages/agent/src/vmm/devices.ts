/** Devices for a confined process: those of the host, or nodes of its own where the host's are for root alone. */
import { lchown, rm, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

const MKNOD_TIMEOUT_MS = 5_000;

/** A device as the confined process finds it, and the node on the host that is bound there. */
export interface DeviceNode {
  readonly path: string;
  readonly node: string;
}

/**
 * A device that is not for everybody, as /dev/kvm often and /dev/net/tun in containers, is given to the one
 * user by a node of its own, as Firecracker's jailer does it: no group, and the host's node stays as it is.
 * The node lies in /dev, since other file systems may forbid devices, and only until it is bound.
 */
export async function provideDevices(
  { devices, uid, gid }: { readonly devices: readonly string[]; readonly uid: number; readonly gid: number },
  releases: (() => Promise<void>)[],
): Promise<DeviceNode[]> {
  const nodes: DeviceNode[] = [];
  for (const path of devices) {
    const { mode, rdev } = await stat(path).catch((error: unknown) => {
      throw new WrennError('driver_unavailable', `The device ${path} does not exist.`, {
        hint: '`wrenn doctor` says what is missing.',
        cause: error,
      });
    });
    if ((mode & 0o006) === 0o006) {
      nodes.push({ path, node: path });
      continue;
    }
    const node = `/dev/.wrenn-${uid}-${basename(path)}`;
    releases.push(() => rm(node, { force: true }));
    await rm(node, { force: true });
    const [major, minor] = deviceNumbers(rdev);
    try {
      await runCommand('mknod', ['-m', '0600', '--', node, 'c', String(major), String(minor)], {
        timeoutMs: MKNOD_TIMEOUT_MS,
      });
      await lchown(node, uid, gid);
    } catch (error) {
      throw new WrennError('missing_privilege', `${path} cannot be given to the VMM's user.`, {
        hint: `Run: chmod 0666 ${path} (or let the agent make device nodes in /dev)`,
        cause: error,
      });
    }
    nodes.push({ path, node });
  }
  return nodes;
}

/** As gnu_dev_major and gnu_dev_minor of sysmacros.h; device numbers of more than 32 bits do not exist here. */
export function deviceNumbers(rdev: number): [number, number] {
  return [(rdev >>> 8) & 0xfff, (rdev & 0xff) | ((rdev >>> 12) & 0xfff00)];
}
