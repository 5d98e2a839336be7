import { resolve } from 'node:path';
import { expect, it } from 'vitest';
import { API_UID } from '../api-user.ts';
import { keyCommand, serviceEnvironments } from './environment.ts';

it('gives each service what it reads, so that both find one another', () => {
  const env = {
    WRENN_CONFIG: './config.json',
    WRENN_SOCKET: '/run/wr.sock',
    WRENN_DRIVER: 'firecracker',
    WRENN_FIRECRACKER: '/opt/firecracker',
    WRENN_JAILER: 'none',
    WRENN_API_CONFIG: '/etc/api.json',
    E2B_DOMAIN: 'sandbox.example',
    WRENN_DIR: '',
    HOME: '/root',
  };
  expect(serviceEnvironments(env, {})).toEqual({
    agent: {
      WRENN_CONFIG: resolve('config.json'),
      WRENN_SOCKET: '/run/wr.sock',
      WRENN_DRIVER: 'firecracker',
      WRENN_FIRECRACKER: '/opt/firecracker',
      WRENN_JAILER: 'none',
    },
    api: { WRENN_API_CONFIG: '/etc/api.json', E2B_DOMAIN: 'sandbox.example' },
  });
});

it('refuses what would not hold for the services, and tells no secret', () => {
  const DATABASE_URL = 'postgres://u:secret@host/wrenn';
  const refused = () => serviceEnvironments({ DATABASE_URL }, {});
  expect(refused).toThrow(expect.objectContaining({ code: 'invalid_config', field: 'DATABASE_URL' }));
  expect(refused).not.toThrow(/secret/);
  expect(serviceEnvironments({ DATABASE_URL }, { DATABASE_URL }).api).toEqual({});
  expect(() => serviceEnvironments({ WRENN_SOCKET_GID: '27' }, {})).toThrow(/in the group/);
  expect(serviceEnvironments({ WRENN_SOCKET_GID: String(API_UID) }, {}).agent).toEqual({});
});

it('tells how another key is made in the store that the service has', () => {
  const program = '/opt/wrenn/wrenn.mjs';
  const embedded = { node: '/usr/bin/node', program, environment: {}, kept: {}, isServer: false };
  expect(keyCommand(embedded)).toBe(
    `systemctl stop wrenn-api.service; /usr/bin/node ${program} api --only-key --new-key NAME; systemctl start wrenn-api.service`,
  );
  const environment = { WRENN_API_CONFIG: '/etc/api.json' };
  const kept = { DATABASE_URL: 'postgres://u:secret@host/wrenn' };
  expect(keyCommand({ ...embedded, environment, kept, isServer: true })).toBe(
    `WRENN_API_CONFIG=/etc/api.json /usr/bin/node --env-file=/etc/wrenn/api.env ${program} api --only-key --new-key NAME`,
  );
});
