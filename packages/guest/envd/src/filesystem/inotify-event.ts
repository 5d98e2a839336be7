/** The format of inotify(7), and what a change means in the protocol. Pure. */
import { EventType } from '@wrenn/protocol/filesystem';

export const IN = {
  MODIFY: 0x2,
  ATTRIB: 0x4,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  DELETE_SELF: 0x400,
  MOVE_SELF: 0x800,
  UNMOUNT: 0x2000,
  Q_OVERFLOW: 0x4000,
  IGNORED: 0x8000,
  ONLYDIR: 0x100_0000,
  DONT_FOLLOW: 0x200_0000,
  EXCL_UNLINK: 0x400_0000,
  ISDIR: 0x4000_0000,
} as const;

export interface InotifyEvent {
  /** The watch it came from; -1 for an overflow, which belongs to none. */
  readonly wd: number;
  readonly mask: number;
  /** The same in the two halves of a rename; 0 elsewhere. */
  readonly cookie: number;
  /** Of the child it is about; empty where it is the watched directory itself. */
  readonly name: string;
}

const HEADER_BYTES = 16;
const NAME_MAX_BYTES = 4096;

/** Cuts a byte stream into events; a part of one is kept until its rest comes. */
export function createInotifyParser(): (bytes: Uint8Array) => InotifyEvent[] {
  let rest: Uint8Array = new Uint8Array(0);
  return (bytes) => {
    const data = rest.length === 0 ? bytes : concat(rest, bytes);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const events: InotifyEvent[] = [];
    let offset = 0;
    while (offset + HEADER_BYTES <= data.length) {
      const nameBytes = view.getUint32(offset + 12, true);
      if (nameBytes > NAME_MAX_BYTES) throw new Error(`an inotify event's name has ${nameBytes} bytes`);
      const end = offset + HEADER_BYTES + nameBytes;
      if (end > data.length) break;
      const name = data.subarray(offset + HEADER_BYTES, end);
      const nul = name.indexOf(0);
      events.push({
        wd: view.getInt32(offset, true),
        mask: view.getUint32(offset + 4, true),
        cookie: view.getUint32(offset + 8, true),
        name: new TextDecoder('utf-8', { ignoreBOM: true }).decode(nul === -1 ? name : name.subarray(0, nul)),
      });
      offset = end;
    }
    rest = data.slice(offset);
    return events;
  };
}

/** In the order in which clients are told where one event means several things. */
const MEANINGS: readonly (readonly [number, EventType])[] = [
  [IN.CREATE | IN.MOVED_TO, EventType.CREATE],
  [IN.MOVED_FROM | IN.MOVE_SELF, EventType.RENAME],
  [IN.ATTRIB, EventType.CHMOD],
  [IN.MODIFY, EventType.WRITE],
  [IN.DELETE | IN.DELETE_SELF, EventType.REMOVE],
];

/** As in fsnotify: a rename is RENAME of the old name and CREATE of the new; a change of owner is CHMOD. */
export function eventTypes(mask: number): EventType[] {
  return MEANINGS.filter(([bits]) => (mask & bits) !== 0).map(([, type]) => type);
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
