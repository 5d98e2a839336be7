/**
 * What was read of the database and is still so. Only where nobody else changes what is read, as in the embedded store:
 * on a server every question is asked.
 */

export interface Memory<T> {
  /** As remembered, or else as `read` finds it. That there is none is not remembered. */
  get<R extends T | undefined>(key: string, read: () => Promise<R>): Promise<T | R>;
  /** Around everything that changes what is read. `write` says what has become of it; all is forgotten if it throws. */
  whileChanging<R>(write: () => Promise<R>): Promise<R>;
  /** What has become of one; if it is not remembered it stays so. */
  change(key: string, to: (known: T) => T): void;
  /** All of it without a key: nobody knows what has changed. */
  forget(key?: string): void;
}

const MAX_REMEMBERED = 10_000;

/** Of more than `most` the newest stay. */
export function createMemory<T>(isExclusive: boolean, most = MAX_REMEMBERED): Memory<T> {
  const remembered = new Map<string, T>();
  let [writes, changes] = [0, 0];

  const forget: Memory<T>['forget'] = (key) => {
    changes += 1;
    if (key === undefined) remembered.clear();
    else remembered.delete(key);
  };

  return {
    get: async (key, read) => {
      const known = remembered.get(key);
      if (known !== undefined) return known;
      // What is read while something changes may be of before or after, and is not remembered.
      const [isQuiet, asOf] = [writes === 0, changes];
      const found = await read();
      if (!isExclusive || found === undefined || !isQuiet || asOf !== changes) return found;
      remembered.set(key, found);
      const [oldest] = remembered.keys();
      if (remembered.size > most && oldest !== undefined) remembered.delete(oldest);
      return found;
    },
    whileChanging: async (write) => {
      writes += 1;
      changes += 1;
      try {
        return await write();
      } catch (error) {
        forget();
        throw error;
      } finally {
        writes -= 1;
      }
    },
    change: (key, to) => {
      const known = remembered.get(key);
      if (known !== undefined) remembered.set(key, to(known));
    },
    forget,
  };
}
