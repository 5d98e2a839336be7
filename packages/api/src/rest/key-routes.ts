/** API keys, and the team that a key stands for. Keys are managed by keys that may. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import type { KeyStore } from '../store/keys.ts';
import { text } from './fields.ts';
import { presentKey } from './present.ts';
import { type Route, route } from './route.ts';
import * as schemas from './schemas.ts';

const params = z.strictObject({ apiKeyID: text(64) });

export function keyRoutes(keys: KeyStore): readonly Route[] {
  const common = { tag: 'api-keys', access: 'admin' } as const;
  return [
    route(
      {
        ...common,
        method: 'GET',
        path: '/api-keys',
        summary: 'List keys, newest first',
        responses: { 200: z.array(schemas.keySchema) },
      },
      async () => ({ status: 200, body: (await keys.list()).map(presentKey) }),
    ),
    route(
      {
        ...common,
        method: 'POST',
        path: '/api-keys',
        summary: 'Make a key; it is shown this once',
        body: schemas.newKeyBody,
        responses: { 201: schemas.createdKeySchema },
      },
      async ({ body }) => {
        const expiresAt = body.expiresAt == null ? undefined : new Date(body.expiresAt);
        if (expiresAt !== undefined && expiresAt.getTime() <= Date.now()) {
          throw new WrennError('invalid_argument', 'expiresAt: is over already.', { field: 'expiresAt' });
        }
        const { key, secret } = await keys.create({
          name: body.name,
          teamId: body.teamID ?? undefined,
          admin: body.admin ?? false,
          limits: body.limits ?? {},
          expiresAt,
        });
        return { status: 201, body: { ...presentKey(key), key: secret } };
      },
    ),
    route(
      {
        ...common,
        method: 'PATCH',
        path: '/api-keys/{apiKeyID}',
        summary: 'Rename a key',
        params,
        body: schemas.renameKeyBody,
        responses: { 204: 'empty' },
      },
      async ({ params: { apiKeyID }, body }) => {
        await keys.rename(apiKeyID, body.name);
        return { status: 204 };
      },
    ),
    route(
      {
        ...common,
        method: 'DELETE',
        path: '/api-keys/{apiKeyID}',
        summary: 'Revoke a key',
        params,
        responses: { 204: 'empty' },
      },
      async ({ params: { apiKeyID } }) => {
        await keys.revoke(apiKeyID);
        return { status: 204 };
      },
    ),
    route(
      {
        tag: 'teams',
        access: 'key',
        method: 'GET',
        path: '/teams',
        summary: 'The team of this key',
        responses: { 200: z.array(schemas.teamSchema) },
      },
      async ({ caller, secret }) => ({
        status: 200,
        // The key is the caller's own, as shown: no other is kept.
        body: [{ teamID: caller.teamId, name: 'default', apiKey: secret, isDefault: true }],
      }),
    ),
  ];
}
