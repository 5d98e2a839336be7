import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { CgroupFiles } from './cgroup-files.ts';
import { describeCgroups, findCgroups, parseCgroupMounts } from './cgroup-hierarchies.ts';
import { createFakeCgroup2 } from './testing/fake-cgroup2.ts';

const SYSTEMD = `\
23 29 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
29 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
35 23 0:31 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:11 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`;

/** Controllers of version 1 mounted one by one, an empty version 2 beside them. */
const V1_AND_EMPTY_V2 = `\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`;

/** systemd's hybrid layout: two controllers in one hierarchy. */
const V1_SHARED = `\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory
`;

const READ_ONLY_CONTAINER = `\
900 880 0:31 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
`;
const READ_ONLY_V1_CONTAINER = `\
900 880 0:50 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
901 900 0:29 /docker/4f1c /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:9 - cgroup cgroup rw,cpu,cpuacct
902 900 0:32 /docker/4f1c /sys/fs/cgroup/memory ro,nosuid master:10 - cgroup cgroup rw,memory
`;
const NONE = '29 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard\n';

function machine(mountInfo: string, contents: Record<string, string> = {}, writable = true): CgroupFiles {
  const all: Record<string, string> = { '/proc/self/mountinfo': mountInfo, ...contents };
  const forbidden = async (): Promise<never> => {
    throw new Error('looking changes nothing');
  };
  return {
    read: async (path) => all[path],
    mayChange: async () => writable,
    directoriesIn: async () => [],
    write: forbidden,
    makeDirectory: forbidden,
    removeDirectory: forbidden,
  };
}

const UNIFIED = {
  '/sys/fs/cgroup/cgroup.controllers': 'cpuset cpu io memory hugetlb pids rdma misc\n',
  '/sys/fs/cgroup/cgroup.subtree_control': 'memory pids\n',
  '/sys/fs/cgroup/cgroup.procs': '',
};

async function verdict(files: CgroupFiles): Promise<string> {
  return describeCgroups(await findCgroups(files));
}

describe('the hierarchies of', () => {
  it('a host with systemd', async () => {
    const found = await findCgroups(machine(SYSTEMD, UNIFIED));
    expect(found).toMatchObject({ version: 2 });
    expect(found).toHaveProperty(
      'roots',
      new Map(['memory', 'cpu', 'pids'].map((name) => [name, '/sys/fs/cgroup'])),
    );
    expect(await verdict(machine(SYSTEMD, UNIFIED))).toBe('v2: memory, cpu, pids');
  });

  it('a host where version 2 is there, and empty', async () => {
    const empty = { '/sys/fs/cgroup/unified/cgroup.controllers': 'hugetlb\n' };
    expect(await verdict(machine(V1_AND_EMPTY_V2, empty))).toBe('v1: memory, cpu, pids');
  });

  it('a host where two controllers share one, and one is missing', async () => {
    const found = await findCgroups(machine(V1_SHARED));
    expect(found).toHaveProperty(
      'roots',
      new Map(Object.entries({ memory: '/sys/fs/cgroup/memory', cpu: '/sys/fs/cgroup/cpu,cpuacct' })),
    );
    expect(await verdict(machine(V1_SHARED))).toBe('v1: memory, cpu; not pids');
  });

  it('a host without any', async () => {
    expect(await verdict(machine(NONE))).toBe('off: no cgroup hierarchy is mounted');
    expect(await verdict(machine(''))).toBe('off: no cgroup hierarchy is mounted');
  });

  it('a host with none of the controllers', async () => {
    expect(await verdict(machine(SYSTEMD, { '/sys/fs/cgroup/cgroup.controllers': 'io\n' }))).toBe(
      'off: no hierarchy has any of memory, cpu, pids',
    );
  });

  it('a container that may only read them', async () => {
    expect(await verdict(machine(READ_ONLY_CONTAINER, UNIFIED))).toBe('off: v2 is mounted read-only');
    expect(await verdict(machine(READ_ONLY_V1_CONTAINER))).toBe('off: v1 is mounted read-only');
  });

  it('somebody who is not root', async () => {
    expect(await verdict(machine(SYSTEMD, UNIFIED, false))).toBe('off: v2 may not be changed by this user');
  });

  it('a container with processes of its own in the root that it sees', async () => {
    const { files } = createFakeCgroup2({ inContainer: true });
    expect(await verdict(files)).toContain('off: v2 gives no controllers');
    const emptied = createFakeCgroup2({ inContainer: true, processes: [] });
    expect(await verdict(emptied.files)).toBe('v2: memory, cpu, pids');
  });

  it('a machine booted without systemd, whose root holds every process', async () => {
    expect(await verdict(createFakeCgroup2().files)).toBe('v2: memory, cpu, pids');
  });
});

describe('mountinfo', () => {
  it('says of two mounts at one place that the later counts', () => {
    const hidden = `${SYSTEMD}99 35 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n`;
    expect(parseCgroupMounts(hidden)).toEqual([]);
  });

  it('has optional fields, and octal digits for blanks', () => {
    const line = '36 35 0:5 /a /mnt/a\\040b\\134c rw,noatime master:1 shared:2 - cgroup2 none rw\n';
    expect(parseCgroupMounts(line)).toEqual([
      { version: 2, mountPoint: '/mnt/a b\\c', readOnly: false, controllers: [] },
    ]);
  });

  it('never fails, whatever is in it', () => {
    const piece = fc.constantFrom(' ', ' - ', '\n', 'cgroup', 'cgroup2', 'rw', '/sys', '\\040', 'memory');
    fc.assert(
      fc.property(fc.array(fc.oneof(piece, fc.string({ maxLength: 4 })), { maxLength: 60 }), (pieces) => {
        for (const { mountPoint } of parseCgroupMounts(pieces.join(''))) {
          expect(typeof mountPoint).toBe('string');
        }
      }),
    );
  });
});
