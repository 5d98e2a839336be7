import { describe, expect, it } from 'vitest';
import { type ByteReader, pump } from './pump.ts';

const bytes = (length: number) => new Uint8Array(length);

function readerOf(chunks: Iterable<Uint8Array>, atEnd: () => ReturnType<ByteReader['read']>): ByteReader {
  const iterator = chunks[Symbol.iterator]();
  return {
    read: async () => {
      const next = iterator.next();
      return next.done ? atEnd() : { done: false, value: next.value };
    },
  };
}
const ended = async () => ({ done: true });
const silent = () => new Promise<never>(() => {});

describe('pump', () => {
  it('moves everything to the end of the stream', async () => {
    let moved = 0;
    await pump(
      readerOf([bytes(3), bytes(0), bytes(4)], ended),
      async (chunk) => {
        moved += chunk.length;
      },
      new AbortController().signal,
    );
    expect(moved).toBe(7);
  });

  it('takes EIO for the end, and nothing else', async () => {
    const failing = (code: string) =>
      readerOf([], () => Promise.reject(Object.assign(new Error(code), { code })));
    const nothing = async () => {};
    await pump(failing('EIO'), nothing, new AbortController().signal);
    await expect(pump(failing('EBADF'), nothing, new AbortController().signal)).rejects.toThrow('EBADF');
  });

  it('ends once it is cut and nothing comes', async () => {
    const cut = new AbortController();
    const pumping = pump(readerOf([bytes(1)], silent), async () => {}, cut.signal);
    setTimeout(() => cut.abort(), 10);
    await pumping;
  });

  it('ends once it is cut even if there is always more', async () => {
    function* forever() {
      for (;;) yield bytes(65_536);
    }
    let moved = 0;
    await pump(
      readerOf(forever(), ended),
      async (chunk) => {
        moved += chunk.length;
      },
      AbortSignal.abort(),
    );
    expect(moved).toBe(1024 * 1024);
  });

  it('reads no more than is taken', async () => {
    let reads = 0;
    const reader: ByteReader = {
      read: async () => {
        reads += 1;
        return { done: false, value: bytes(1) };
      },
    };
    void pump(reader, silent, new AbortController().signal);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reads).toBe(1);
  });
});
