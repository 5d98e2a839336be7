/** The soak in short: a few clients of the unmodified SDK at once on real sandboxes, and an end in good order. */
import { expect, it } from 'vitest';
import { runSoak } from '../../bench/soak/soak.ts';

it('holds while clients run commands, move files, type and watch at once', { timeout: 600_000 }, async ({
  signal,
}) => {
  const { done, errors, apiStop, agentStop, lost, left } = await runSoak({
    clients: 20,
    sandboxes: 3,
    seconds: 30,
    pauseS: 2,
    rampS: 5,
    number: 78,
    progress: () => {},
    signal,
  });
  expect(lost).toEqual([]);
  expect(errors).toEqual([]);
  for (const [kind, { least }] of Object.entries(done)) expect(least, kind).toBeGreaterThanOrEqual(1);
  for (const { code, tookMs } of [apiStop, agentStop]) {
    expect(code).toBe(0);
    expect(tookMs).toBeLessThan(10_000);
  }
  expect(left).toEqual([]);
});
