import { totalmem } from 'node:os';
import { expect, it } from 'vitest';
import { machineFacts, parseCpuMax } from './machine.ts';

it('the machine has CPUs, memory and a boot id', async () => {
  const facts = await machineFacts();
  expect(facts.vcpus).toBeGreaterThanOrEqual(1);
  expect(facts.memoryMib).toBeGreaterThan(0);
  expect(facts.memoryMib).toBeLessThanOrEqual(Math.floor(totalmem() / 1024 ** 2));
  expect(facts.bootId).toMatch(/^[0-9a-f-]{36}$/);
});

it.each([
  ['max 100000\n', Number.POSITIVE_INFINITY],
  ['150000 100000\n', 2],
  ['50000 100000', 1],
  ['junk', Number.POSITIVE_INFINITY],
  ['', Number.POSITIVE_INFINITY],
])('cpu.max %j is %d CPUs', (text, cpus) => {
  expect(parseCpuMax(text)).toBe(cpus);
});
