import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { randomHex } from './random.ts';

it('gives as much as asked for, and never the same', () => {
  const values = Array.from({ length: 100 }, () => randomHex(16));
  for (const value of values) expect(value).toMatch(/^[0-9a-f]{32}$/);
  expect(new Set(values).size).toBe(100);
});

it('is the only randomness in envd: any other would be the same in every clone', () => {
  const root = join(import.meta.dirname, '..');
  const sources = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(
    (name) => name.endsWith('.ts') && !name.endsWith('.test.ts') && name !== 'sys/random.ts',
  );
  expect(sources.length).toBeGreaterThan(50);
  const suspicious = /Math\.random|node:crypto|randomUUID|getRandomValues|\bcrypto\./;
  expect(sources.filter((name) => suspicious.test(readFileSync(join(root, name), 'utf8')))).toEqual([]);
});
