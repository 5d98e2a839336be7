import { describe, expect, it } from 'vitest';
import { keyLimitsSchema } from '../config/schema.ts';
import { createLimits, type LimitedKey } from './limits.ts';

const owner: LimitedKey = { keyId: 'k', limits: keyLimitsSchema.parse({ maxSandboxes: 3 }) };
const tooMany = expect.objectContaining({ code: 'too_many_sandboxes' });

describe('room for more', () => {
  /** `present` is asked for each; what it does meanwhile happens while the answer is under way. */
  const scene = (there = 0) => {
    const limits = createLimits();
    const state = { there, asked: 0 };
    const hold = (count: number, meanwhile: () => void = () => {}) =>
      limits.hold('maxSandboxes', owner, count, async () => {
        state.asked += 1;
        meanwhile();
        return state.there;
      });
    return { state, hold };
  };

  it('is what those who are there and those who hold it leave, at the same time too', async () => {
    const { state, hold } = scene(1);
    const outcomes = await Promise.allSettled([hold(1), hold(1), hold(1), hold(2)]);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected']);
    await expect(hold(1)).rejects.toThrow(tooMany);
    for (const outcome of outcomes) if (outcome.status === 'fulfilled') outcome.value();
    state.there = 2;
    (await hold(1))();
    await expect(hold(2)).rejects.toThrow(tooMany);
    (await hold(1))();
  });

  it('is not refused for one that was counted as held and came to be there meanwhile', async () => {
    const { state, hold } = scene(1);
    const release = await hold(1);
    const another = await hold(1, () => {
      release();
      state.there = 2;
    });
    await expect(hold(1)).rejects.toThrow(tooMany);
    another();
  });

  it('is looked for so often and no more', async () => {
    const { state, hold } = scene();
    const crowd = await Promise.all([hold(1), hold(1)]);
    state.asked = 0;
    state.there = 3;
    await expect(hold(1, () => crowd.pop()?.())).rejects.toThrow(tooMany);
    expect(state.asked).toBe(3);
  });
});
