import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConfig, parseConfig } from './load.ts';
import { agentPaths, agentSocketPath } from './schema.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-config-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

function file(content: string): string {
  const path = join(dir, 'config.json');
  writeFileSync(path, content);
  return path;
}

function fieldOf(work: () => unknown): string | undefined {
  try {
    work();
  } catch (error) {
    if (error instanceof WrennError && error.code === 'invalid_config') return error.field ?? '';
    throw error;
  }
  return undefined;
}

describe('the configuration', () => {
  it('is all defaults without a file', () => {
    const config = parseConfig({});
    expect(agentSocketPath(config)).toBe('/var/lib/wrenn/agent.sock');
    expect(agentPaths(config).imagesDir).toBe('/var/lib/wrenn');
    expect(config.limits.minMemoryMib).toBe(128);
  });

  it('takes the file, and the environment over it', () => {
    const path = file('{"wrennDir":"/srv/a","limits":{"maxSandboxes":3},"log":{"maxFileBytes":65536}}');
    const config = loadConfig({
      WRENN_CONFIG: path,
      WRENN_DIR: '/srv/b/',
      WRENN_SOCKET: '/run/x.sock',
      WRENN_LOG_LEVEL: 'debug',
      WRENN_DRIVER: '',
    });
    expect(config).toMatchObject({ wrennDir: '/srv/b', driver: 'auto', limits: { maxSandboxes: 3 } });
    expect(config.log).toMatchObject({ level: 'debug', maxFileBytes: 65536 });
    expect(agentSocketPath(config)).toBe('/run/x.sock');
  });

  it('names the field at fault', () => {
    expect(fieldOf(() => parseConfig({ limits: { maxSandboxes: 0 } }))).toBe('limits.maxSandboxes');
    expect(fieldOf(() => parseConfig({ wrennDir: 'relative' }))).toBe('wrennDir');
    expect(fieldOf(() => parseConfig({ wrennDir: `/${'x'.repeat(60)}` }))).toBe('wrennDir');
    expect(fieldOf(() => parseConfig({ network: { prefix: 'Bad!' } }))).toBe('network.prefix');
    expect(fieldOf(() => parseConfig({ limits: { maxSandboxs: 1 } }))).toBe('limits');
    const slow = { defaults: { rateLimits: { diskBytesPerSecond: 1 } } };
    expect(fieldOf(() => parseConfig(slow))).toBe('defaults.rateLimits.diskBytesPerSecond');
    expect(fieldOf(() => parseConfig([]))).toBe('');
    expect(fieldOf(() => loadConfig({ WRENN_CONFIG: '/does/not/exist' }))).toBe('');
    expect(fieldOf(() => loadConfig({ WRENN_CONFIG: file('{') }))).toBe('');
    expect(fieldOf(() => loadConfig({ WRENN_CONFIG: file('[1]') }))).toBe('');
    expect(fieldOf(() => loadConfig({ WRENN_CONFIG: file('{}'), WRENN_DRIVER: 'xen' }))).toBe('driver');
  });
});
