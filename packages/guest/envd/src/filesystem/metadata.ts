/**
 * A file's metadata: what an upload's `X-Metadata-<key>` headers say, kept as the extended attributes
 * `user.e2b.<key>`. Programs in the machine may write these attributes too, so what is read is bounded
 * and whatever is no text is left out.
 */
import { errnoCode } from '../sys/errno.ts';

const METADATA_PREFIX = 'user.e2b.';
const HEADER_PREFIX = 'x-metadata-';
/** The kernel's limit of an attribute's name. */
const NAME_MAX_BYTES = 255;
/** What ext4 keeps for one file: a block. Counted are the names, prefix included, and the values. */
const TOTAL_MAX_BYTES = 4096;
/** Other file systems hold more; an entry in a listing must stay small all the same. */
const READ_MAX_BYTES = 64 * 1024;

export type Metadata = Readonly<Record<string, string>>;

/** Extended attributes, addressed by path; links are followed. Failures are errors with an errno code. */
export interface Xattrs {
  list(path: string): Uint8Array;
  get(path: string, name: string): Uint8Array;
  set(path: string, name: string, value: Uint8Array): void;
  remove(path: string, name: string): void;
}

/** Header names are case-blind, so keys are lower case. */
export function metadataOf(headers: Headers): Metadata {
  const metadata: Record<string, string> = {};
  headers.forEach((value, name) => {
    const key = name.toLowerCase();
    if (key.startsWith(HEADER_PREFIX) && key.length > HEADER_PREFIX.length) {
      metadata[key.slice(HEADER_PREFIX.length)] = value;
    }
  });
  return metadata;
}

/** Why the metadata cannot be kept, or undefined. */
export function refuseMetadata(metadata: Metadata): string | undefined {
  let totalBytes = 0;
  for (const [key, value] of Object.entries(metadata)) {
    if (METADATA_PREFIX.length + key.length > NAME_MAX_BYTES) {
      return `metadata key '${key.slice(0, 64)}…' exceeds ${NAME_MAX_BYTES - METADATA_PREFIX.length} bytes`;
    }
    if (!isPrintableAscii(key)) return `metadata key ${JSON.stringify(key)} is not printable ASCII`;
    if (!isPrintableAscii(value)) return `the value of metadata key '${key}' is not printable ASCII`;
    totalBytes += METADATA_PREFIX.length + key.length + value.length;
  }
  return totalBytes > TOTAL_MAX_BYTES
    ? `total metadata size ${totalBytes} exceeds ${TOTAL_MAX_BYTES} bytes`
    : undefined;
}

function isPrintableAscii(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text);
}

/** Best effort: metadata that cannot be read is none, for the entry itself is still worth telling. */
export function readMetadata(xattrs: Xattrs, path: string): Metadata {
  const metadata: Record<string, string> = {};
  let totalBytes = 0;
  for (const name of metadataNames(xattrs, path)) {
    const value = decodeUtf8(attempt(() => xattrs.get(path, name)));
    if (value === undefined) continue;
    totalBytes += name.length + value.length;
    if (totalBytes > READ_MAX_BYTES) break;
    metadata[name.slice(METADATA_PREFIX.length)] = value;
  }
  return metadata;
}

/**
 * Replaces all metadata of the file: an upload that says none leaves none. False where the file system
 * keeps no attributes (/proc, /sys), which is no reason to refuse the contents.
 */
export function writeMetadata(xattrs: Xattrs, path: string, metadata: Metadata): boolean {
  try {
    for (const name of splitNames(xattrs.list(path))) {
      if (name.startsWith(METADATA_PREFIX) && !Object.hasOwn(metadata, name.slice(METADATA_PREFIX.length))) {
        xattrs.remove(path, name);
      }
    }
    for (const [key, value] of Object.entries(metadata)) {
      xattrs.set(path, METADATA_PREFIX + key, new TextEncoder().encode(value));
    }
    return true;
  } catch (error) {
    const code = errnoCode(error);
    if (code === 'ENOTSUP' || code === 'EOPNOTSUPP') return false;
    throw error;
  }
}

function metadataNames(xattrs: Xattrs, path: string): string[] {
  const names = attempt(() => xattrs.list(path));
  if (names === undefined || names.length === 0) return [];
  return splitNames(names).filter((name) => name.startsWith(METADATA_PREFIX));
}

/** Names that are no UTF-8 could not be sent anyway. */
function splitNames(list: Uint8Array): string[] {
  const names: string[] = [];
  let start = 0;
  for (let end = list.indexOf(0); end !== -1; start = end + 1, end = list.indexOf(0, start)) {
    const name = decodeUtf8(list.subarray(start, end));
    if (name !== undefined && name !== '') names.push(name);
  }
  return names;
}

function decodeUtf8(bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  return attempt(() => new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
