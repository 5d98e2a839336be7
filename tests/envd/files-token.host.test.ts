/** Who may read and write files of a guest agent that has a token: with it, or by a signature. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Envd, startEnvd } from './start-envd.ts';

const token = 'secret-token';

let secured: Envd;
let root: string;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'wrenn-files-'));
  secured = await startEnvd();
  await secured.init({ accessToken: token });
}, 60_000);
afterAll(async () => {
  await secured.stop();
  rmSync(root, { recursive: true, force: true });
});

const sign = (path: string, operation: string, user = '', expiration?: number) => {
  const text = [path, operation, user, token, ...(expiration === undefined ? [] : [expiration])].join(':');
  return `v1_${createHash('sha256').update(text).digest('base64').replace(/=+$/, '')}`;
};
const request = (query: Record<string, string>, init: RequestInit = {}) =>
  fetch(`${secured.url}/files?${new URLSearchParams(query)}`, init);
const upload = { method: 'POST', body: 'x', headers: { 'Content-Type': 'application/octet-stream' } };

it('needs the token or a signature of just this request', async () => {
  const path = join(root, 'file');
  writeFileSync(path, 'x');
  const status = async (...args: Parameters<typeof request>) => (await request(...args)).status;
  expect(await status({ path })).toBe(401);
  expect(await status({ path }, { headers: { 'X-Access-Token': token } })).toBe(200);
  expect(await status({ path }, { headers: { 'X-Access-Token': 'wrong' } })).toBe(401);
  expect(await status({ path, signature: sign(path, 'read') })).toBe(200);
  expect(await status({ path, signature: sign(path, 'write') })).toBe(401);
  expect(await status({ path, signature: sign('/etc/passwd', 'read') })).toBe(401);
  expect(await status({ path, username: 'root', signature: sign(path, 'read') })).toBe(401);
  expect(await status({ path, username: 'root', signature: sign(path, 'read', 'root') })).toBe(200);
  expect(await status({ path, signature: sign(path, 'read') }, upload)).toBe(401);
  expect(await status({ path, signature: sign(path, 'write') }, upload)).toBe(200);
});

it('honours the time until which a signature holds', async () => {
  const path = join(root, 'file');
  writeFileSync(path, 'x');
  const until = (seconds: number) => {
    const expiration = Math.floor(Date.now() / 1000) + seconds;
    return {
      path,
      signature: sign(path, 'read', '', expiration),
      signature_expiration: String(expiration),
    };
  };
  expect((await request(until(60))).status).toBe(200);
  const expired = await request(until(-60));
  expect(expired.status).toBe(401);
  expect(await expired.json()).toEqual({ code: 401, message: 'signature is already expired' });
  expect((await request({ ...until(-60), signature_expiration: '99999999999' })).status).toBe(401);
});

it('leaves compose to the token alone', async () => {
  const response = await fetch(`${secured.url}/files/compose`, { method: 'POST', body: '{}' });
  expect(response.status).toBe(401);
});
