/** File systems whose changes may be made elsewhere, where no inotify event tells of them. */

/** Magic numbers of statfs(2), from the kernel's magic.h and each file system's own headers. */
const NETWORK_FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0x6969, 'nfs'],
  [0xff53_4d42, 'cifs'],
  [0xfe53_4d42, 'smb2'],
  [0x517b, 'smb'],
  [0x6573_5546, 'fuse'],
  [0x0102_1997, '9p'],
  [0x5346_414f, 'afs'],
  [0x00c3_6400, 'ceph'],
  [0x0bd0_0bd0, 'lustre'],
  [0x4750_4653, 'gpfs'],
  [0x7461_636f, 'ocfs2'],
  [0x0116_1970, 'gfs2'],
]);

/** The name of the network file system with this magic number; undefined for a local one. */
export function networkFileSystem(type: number): string | undefined {
  return NETWORK_FILE_SYSTEMS.get(type);
}
