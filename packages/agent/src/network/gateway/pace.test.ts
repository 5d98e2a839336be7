import { describe, expect, it } from 'vitest';
import { createPacer } from './pace.ts';

describe('a pacer', () => {
  it('lets a tenth of a second pass at once, and then holds to the rate', () => {
    let now = 5000;
    const pace = createPacer(1000, () => now);
    expect(pace(100)).toBe(0);
    expect(pace(50)).toBe(50);
    now += 50;
    expect(pace(1000)).toBe(1000);
    now += 60_000;
    expect(pace(100)).toBe(0);
    expect(pace(1)).toBe(1);
  });
});
