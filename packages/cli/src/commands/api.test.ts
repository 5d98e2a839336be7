import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { API_CONFIG_FILE, loadApiConfig } from './api.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-api-config-'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true });
});

it('reads the file that is named, which has to be there', () => {
  const file = join(dir, 'api.json');
  vi.stubEnv('WRENN_API_CONFIG', file);
  expect(() => loadApiConfig({})).toThrow(`${file} does not exist.`);
  writeFileSync(file, JSON.stringify({ listen: { port: 3811 } }));
  expect(loadApiConfig({}).listen.port).toBe(3811);
});

it('takes an empty name for none', () => {
  const settings = (): unknown => {
    try {
      return loadApiConfig({});
    } catch (error) {
      // A machine may have a file of its own, right or wrong.
      expect(String(error)).toContain(API_CONFIG_FILE);
      return undefined;
    }
  };
  vi.stubEnv('WRENN_API_CONFIG', undefined);
  const unset = settings();
  vi.stubEnv('WRENN_API_CONFIG', '');
  expect(settings()).toEqual(unset);
});
