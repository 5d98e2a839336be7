import { spawn } from 'node:child_process';
import { linkSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { openAppendedLog } from './appended-log.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrlog-'));
});
afterEach(() => {
  vi.useRealTimers();
  rmSync(dir, { recursive: true });
});

const fail = (error: unknown) => {
  throw error;
};

it('is cut back while a process goes on appending to it', async () => {
  vi.useFakeTimers({ toFake: ['setInterval'] });
  const path = join(dir, 'vmm.log');
  const log = await openAppendedLog(path, fail);
  const child = spawn('seq', ['200000'], { stdio: ['ignore', log.fd, log.fd] });
  await new Promise((resolve) => child.once('close', resolve));
  vi.advanceTimersByTime(10_000);
  await vi.waitFor(() => expect(statSync(path).size).toBe(64 * 1024), 5000);
  const second = spawn('echo', ['the end'], { stdio: ['ignore', log.fd, log.fd] });
  await new Promise((resolve) => second.once('close', resolve));
  // Appended at the new end: no hole where the old one was.
  expect(statSync(path).size).toBe(64 * 1024 + 'the end\n'.length);
  expect((await log.tail(1))[0]).toMatch(/the end$/);
  await log.close();
  await log.close();
  expect(await log.tail(1)).toEqual([]);
});

it('shows what an earlier agent found, escaped', async () => {
  const path = join(dir, 'vmm.log');
  writeFileSync(path, 'first\nsecond \u001b[31m\n');
  const log = await openAppendedLog(path, fail);
  expect(await log.tail(5)).toEqual(['first', 'second \\x1b[31m']);
  await log.close();
});

it('does not follow links', async () => {
  const path = join(dir, 'vmm.log');
  symlinkSync(join(dir, 'elsewhere'), path);
  await expect(openAppendedLog(path, fail)).rejects.toThrow();
  rmSync(path);
  writeFileSync(join(dir, 'elsewhere'), '');
  linkSync(join(dir, 'elsewhere'), path);
  await expect(openAppendedLog(path, fail)).rejects.toMatchObject({ code: 'internal' });
});
