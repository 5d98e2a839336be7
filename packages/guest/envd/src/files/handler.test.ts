import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { createAccessToken } from '../auth.ts';
import { createLives } from '../lives.ts';
import type { User } from '../sys/users.ts';
import { createFilesHandler } from './handler.ts';

const root = mkdtempSync(join(tmpdir(), 'wrenn-compose-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
const user: User = { name: 'user', uid, gid, groups: [gid], home: root, shell: '/bin/sh' };
const lives = createLives();
const limits: number[] = [];
const handle = createFilesHandler({
  users: { byName: () => user, userName: String, groupName: String },
  settings: { defaultUser: 'user', defaultWorkdir: undefined, globalEnv: new Map() },
  accessToken: createAccessToken(),
  lives,
  libc: {
    call: () => 0,
    setxattr: () => {},
    removexattr: () => {},
    statfs: () => ({ type: 0, totalBytes: 1e9, freeBytes: 1e9, availableBytes: 1e9 }),
  },
});

it('composing may take longer than a connection may be silent, once the request is there', async () => {
  writeFileSync(join(root, 'a'), 'one ');
  writeFileSync(join(root, 'b'), 'two');
  const body = JSON.stringify({ source_paths: ['a', 'b'], destination: 'c' });
  const request = new Request('http://envd/files/compose', { method: 'POST', body });
  const response = await handle(request, { timeout: (_, seconds) => limits.push(seconds) });
  expect(response.status).toBe(200);
  expect(readFileSync(join(root, 'c'), 'utf8')).toBe('one two');
  expect(existsSync(join(root, 'a'))).toBe(false);
  lives.begin();
  expect(limits).toEqual([240, 0]);
});
