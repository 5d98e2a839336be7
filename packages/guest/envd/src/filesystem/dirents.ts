/**
 * The names in a directory, by getdents64(2): node:fs reads a whole directory at once, and a guest may
 * have millions of names in one. Here whoever asks stops when enough is enough.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { isMissing, isOutOfReach } from './fs-errors.ts';

export interface Dirent {
  readonly name: string;
  readonly kind: 'directory' | 'other' | 'unknown';
}

/** The one system call that this needs: fills the buffer, tells how many bytes; 0 is the end. */
export interface DirentSource {
  call(name: 'getdents64', subject: string, fd: number, buffer: Uint8Array, length: number): number;
}

const BUFFER_BYTES = 32 * 1024;
const HEADER_BYTES = 19;
const DT_UNKNOWN = 0;
const DT_DIR = 4;

/** What one getdents64 has filled in, without `.` and `..`. Names that are no UTF-8 get replacement marks. */
export function parseDirents(bytes: Uint8Array): Dirent[] {
  const dirents: Dirent[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let offset = 0; offset + HEADER_BYTES <= bytes.length; ) {
    const recordBytes = view.getUint16(offset + 16, true);
    if (recordBytes < HEADER_BYTES) break;
    const type = bytes[offset + 18];
    const end = bytes.indexOf(0, offset + HEADER_BYTES);
    const name = new TextDecoder('utf-8', { ignoreBOM: true }).decode(
      bytes.subarray(offset + HEADER_BYTES, end === -1 ? offset + recordBytes : end),
    );
    if (name !== '.' && name !== '..') {
      dirents.push({ name, kind: type === DT_DIR ? 'directory' : type === DT_UNKNOWN ? 'unknown' : 'other' });
    }
    offset += recordBytes;
  }
  return dirents;
}

/** In the order in which the file system has them, some hundred at a time. A directory that has gone has none. */
export function* readDirents(source: DirentSource, path: string): Generator<Dirent[]> {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NONBLOCK);
  } catch (error) {
    if (isOutOfReach(error)) return;
    throw error;
  }
  try {
    const buffer = new Uint8Array(BUFFER_BYTES);
    for (;;) {
      const filled = fill(source, path, fd, buffer);
      if (filled === 0) return;
      yield parseDirents(buffer.subarray(0, filled));
    }
  } finally {
    closeSync(fd);
  }
}

/** A directory that has gone since it was opened says so only here. */
function fill(source: DirentSource, path: string, fd: number, buffer: Uint8Array): number {
  try {
    return source.call('getdents64', path, fd, buffer, buffer.length);
  } catch (error) {
    if (isMissing(error)) return 0;
    throw error;
  }
}
