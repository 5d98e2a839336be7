/** Extended attributes by system call. One buffer serves all calls: none of them waits. */
import type { Libc } from '../sys/libc.ts';
import type { Xattrs } from './metadata.ts';

const BUFFER_BYTES = 64 * 1024;

/** The system calls that this needs. */
export type XattrCalls = Pick<Libc, 'call' | 'setxattr' | 'removexattr'>;

export function createXattrs(libc: XattrCalls): Xattrs {
  const buffer = new Uint8Array(BUFFER_BYTES);
  return {
    list: (path) => buffer.slice(0, libc.call('listxattr', path, path, buffer, buffer.length)),
    get: (path, name) => buffer.slice(0, libc.call('getxattr', path, path, name, buffer, buffer.length)),
    set: (path, name, value) => libc.setxattr(path, name, value),
    remove: (path, name) => libc.removexattr(path, name),
  };
}
