import { describe, expect, it } from 'vitest';
import { createMemory } from './memory.ts';

describe('what was read', () => {
  it('is not read again until it changes', async () => {
    const memory = createMemory<number>(true);
    let [stored, reads] = [1, 0];
    const read = async () => {
      reads += 1;
      return stored;
    };
    expect([await memory.get('a', read), await memory.get('a', read), reads]).toEqual([1, 1, 1]);
    await memory.whileChanging(async () => {
      stored += 1;
      memory.change('a', (known) => known + 1);
      memory.change('b', (known) => known + 1);
    });
    expect([await memory.get('a', read), reads]).toEqual([2, 1]);
    expect([await memory.get('b', read), reads]).toEqual([2, 2]);
    memory.forget('a');
    expect([await memory.get('a', read), await memory.get('b', read), reads]).toEqual([2, 2, 3]);
    memory.forget();
    expect([await memory.get('a', read), await memory.get('b', read), reads]).toEqual([2, 2, 5]);
  });

  it('is forgotten with a change that fails', async () => {
    const memory = createMemory<number>(true);
    await memory.get('a', async () => 1);
    const failing = memory.whileChanging(() => Promise.reject(new Error('the database is away')));
    await expect(failing).rejects.toThrow('the database is away');
    expect(await memory.get('a', async () => 2)).toBe(2);
  });

  it('while it changed is of before or after, and not remembered', async () => {
    for (const order of ['begun before', 'begun meanwhile', 'over before the change is told of'] as const) {
      const memory = createMemory<number>(true);
      let written = () => {};
      const writing = new Promise<void>((resolve) => {
        written = resolve;
      });
      let answer = (_: number) => {};
      const answered = new Promise<number>((resolve) => {
        answer = resolve;
      });
      const early = order === 'begun before' ? memory.get('a', () => answered) : undefined;
      const change = memory.whileChanging(async () => {
        await writing;
        memory.change('a', (known) => known + 1);
      });
      const reading = early ?? memory.get('a', () => answered);
      if (order === 'over before the change is told of') {
        answer(2);
        expect(await reading).toBe(2);
      }
      written();
      await change;
      answer(1);
      await reading;
      expect(await memory.get('a', async () => 7)).toBe(7);
    }
  });

  it('is read each time where others may change it, and so is what is not there', async () => {
    const shared = createMemory<number>(false);
    for (const n of [1, 2]) expect(await shared.get('a', async () => n)).toBe(n);
    const own = createMemory<number>(true);
    expect(await own.get('a', async () => undefined)).toBeUndefined();
    expect(await own.get('a', async () => 1)).toBe(1);
  });
});
