import { describe, expect, it } from 'vitest';
import { refusal } from './access.ts';

const target = { sandboxId: 'a', address: '127.0.0.1', trafficToken: undefined, maskRequestHost: undefined };

describe('refusal', () => {
  it.each([
    '/health',
    '/files?path=/etc/passwd',
    '/files/compose',
    '/envs',
    '/metrics',
    '/process.Process/Start',
    '/filesystem.Filesystem/Stat',
  ])("lets %s through to the guest's agent", (url) => {
    expect(refusal(target, 49_983, url, {})).toBeUndefined();
  });

  it.each([
    '/init',
    '/init?x',
    '/init/',
    '//init',
    '/./init',
    '/files/../init',
    '/files/%2e%2e/init',
    '/%69nit',
    '/quiesce',
    'http://x/health',
    '*',
    '',
    '/process.Process/Start/../../init',
    '/other',
  ])('keeps %j from it', (url) => {
    expect(refusal(target, 49_983, url, {})).toMatchObject({ status: 404 });
    expect(refusal(target, 8000, url, {})).toBeUndefined();
  });

  it("asks for the token of a sandbox that is not open to all, but not on its agent's port", () => {
    const closed = { ...target, trafficToken: 'secret' };
    for (const shown of [undefined, '', 'secre', 'secret2', ['secret', 'secret']]) {
      const headers = shown === undefined ? {} : { 'e2b-traffic-access-token': shown };
      expect(refusal(closed, 8000, '/', headers)).toMatchObject({ status: 403 });
    }
    expect(refusal(closed, 8000, '/', { 'e2b-traffic-access-token': 'secret' })).toBeUndefined();
    expect(refusal(closed, 49_983, '/health', {})).toBeUndefined();
  });
});
