import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createSlotAllocator } from './allocator.ts';

type Step =
  | { readonly do: 'reserve' }
  | { readonly do: 'release' | 'adopt' | 'wait'; readonly value: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.constant({ do: 'reserve' as const }),
  fc.record({
    do: fc.constantFrom('release' as const, 'adopt' as const, 'wait' as const),
    value: fc.integer({ min: 0, max: 11 }),
  }),
);

describe('the allocator', () => {
  it('gives no index to two, none before it has rested, and all of them', () => {
    const property = fc.property(
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 0, max: 10 }),
      fc.array(step, { maxLength: 80 }),
      (count, holdOffMs, steps) => {
        let nowMs = 0;
        const slots = createSlotAllocator(count, holdOffMs, () => nowMs);
        // The model: who has it, and when it was given back.
        const taken = new Set<number>();
        const releasedAt = new Map<number, number>();
        const usable = (index: number) => {
          const since = releasedAt.get(index);
          return !taken.has(index) && (since === undefined || nowMs - since >= holdOffMs);
        };
        for (const one of steps) {
          if (one.do === 'wait') nowMs += one.value;
          else if (one.do === 'reserve') {
            const anyLeft = Array.from({ length: count }, (_, index) => index).some(usable);
            if (!anyLeft) {
              expect(() => slots.reserve()).toThrow(
                expect.objectContaining({ code: 'network_slots_exhausted' }),
              );
              continue;
            }
            const index = slots.reserve();
            expect(index).toBeGreaterThanOrEqual(0);
            expect(index).toBeLessThan(count);
            expect(usable(index)).toBe(true);
            taken.add(index);
          } else if (one.value < count) {
            if (one.do === 'adopt') {
              slots.adopt(one.value);
              taken.add(one.value);
            } else {
              slots.release(one.value);
              if (taken.delete(one.value)) releasedAt.set(one.value, nowMs);
            }
          }
          expect(slots.takenCount).toBe(taken.size);
        }
      },
    );
    fc.assert(property, { numRuns: 500 });
  });

  it('goes round, so that an address rests for as long as it can', () => {
    const slots = createSlotAllocator(3, 0, () => 0);
    const order = Array.from({ length: 5 }, () => {
      const index = slots.reserve();
      slots.release(index);
      return index;
    });
    expect(order).toEqual([0, 1, 2, 0, 1]);
  });
});
