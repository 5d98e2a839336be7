import { EventType } from '@wrenn/protocol/filesystem';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createInotifyParser, eventTypes, IN, type InotifyEvent } from './inotify-event.ts';

/** As the kernel writes it: the name padded with NULs to a multiple of 16. */
function encode({ wd, mask, cookie, name }: InotifyEvent): Uint8Array {
  const text = new TextEncoder().encode(name);
  const padded = text.length === 0 ? 0 : Math.ceil((text.length + 1) / 16) * 16;
  const bytes = new Uint8Array(16 + padded);
  const view = new DataView(bytes.buffer);
  view.setInt32(0, wd, true);
  view.setUint32(4, mask, true);
  view.setUint32(8, cookie, true);
  view.setUint32(12, padded, true);
  bytes.set(text, 16);
  return bytes;
}

const event = fc.record({
  wd: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
  mask: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  cookie: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  name: fc.string({ unit: 'grapheme', maxLength: 60 }).filter((name) => !name.includes('\0')),
});

describe('createInotifyParser', () => {
  it('finds the same events however the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(event, { maxLength: 20 }),
        fc.array(fc.nat(500), { maxLength: 30 }),
        (events, cuts) => {
          const bytes = Buffer.concat(events.map(encode));
          const parse = createInotifyParser();
          const found: InotifyEvent[] = [];
          let offset = 0;
          for (const length of cuts) {
            found.push(...parse(bytes.subarray(offset, offset + length)));
            offset += length;
          }
          found.push(...parse(bytes.subarray(offset)));
          expect(found).toEqual(events);
        },
      ),
    );
  });

  it('does not wait for a name that no file can have', () => {
    const bytes = encode({ wd: 1, mask: 0, cookie: 0, name: '' });
    new DataView(bytes.buffer).setUint32(12, 0xffff_ffff, true);
    expect(() => createInotifyParser()(bytes)).toThrow();
  });
});

describe('eventTypes', () => {
  it.each([
    [IN.CREATE, [EventType.CREATE]],
    [IN.CREATE | IN.ISDIR, [EventType.CREATE]],
    [IN.MOVED_TO, [EventType.CREATE]],
    [IN.MOVED_FROM, [EventType.RENAME]],
    [IN.MOVE_SELF, [EventType.RENAME]],
    [IN.MODIFY, [EventType.WRITE]],
    [IN.ATTRIB, [EventType.CHMOD]],
    [IN.DELETE, [EventType.REMOVE]],
    [IN.DELETE_SELF, [EventType.REMOVE]],
    [IN.CREATE | IN.MODIFY, [EventType.CREATE, EventType.WRITE]],
    [IN.IGNORED, []],
  ])('of %i are %j', (mask, types) => {
    expect(eventTypes(mask)).toEqual(types);
  });
});
