/** What is done with sandboxes, one at a time: from the creation to the end. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import type { Caller } from '../sandboxes/caller.ts';
import type { SandboxService } from '../sandboxes/service.ts';
import type { NetworkSettings } from '../store/sandboxes.ts';
import { toAnswer } from './errors.ts';
import { text } from './fields.ts';
import { presentDetail, presentSandbox, presentSnapshot } from './present.ts';
import { type Answer, type Route, route } from './route.ts';
import * as schemas from './schemas.ts';

const params = z.strictObject({ sandboxID: text(128) });

export interface SandboxRoutesDeps {
  readonly service: SandboxService;
  readonly domain: string | undefined;
}

export function sandboxRoutes({ service, domain }: SandboxRoutesDeps): readonly Route[] {
  const create = async (caller: Caller, body: schemas.NewSandboxBody): Promise<Answer> => {
    const made = await service.create(caller, {
      template: body.templateID,
      timeoutMs: body.timeout * 1000,
      envs: body.envVars ?? {},
      metadata: body.metadata ?? {},
      network: toNetwork(body),
      autoPause: body.autoPause ?? false,
      autoResume: body.autoResume?.enabled ?? false,
      vcpus: body.cpuCount ?? undefined,
      memoryMib: body.memoryMB ?? undefined,
    });
    return { status: 201, body: presentSandbox(made, domain) };
  };
  const connect = async (caller: Caller, id: string, timeoutS: number): Promise<Answer> => {
    const found = await service.connect(caller, id, timeoutS * 1000);
    return { status: found.resumed ? 201 : 200, body: presentSandbox(found, domain) };
  };
  const common = { tag: 'sandboxes', access: 'key' } as const;
  const under = { ...common, params } as const;
  const created = { 201: schemas.sandboxSchema };
  const connected = { 200: schemas.sandboxSchema, 201: schemas.sandboxSchema };
  const done = { 204: 'empty' } as const;

  return [
    route(
      {
        ...common,
        method: 'POST',
        path: '/sandboxes',
        summary: 'Create a sandbox',
        body: schemas.newSandboxBody,
        responses: created,
        deprecated: true,
      },
      ({ caller, body }) => create(caller, body),
    ),
    route(
      {
        ...common,
        method: 'POST',
        path: '/v2/sandboxes',
        summary: 'Create a sandbox',
        body: schemas.newSandboxV2Body,
        responses: created,
      },
      ({ caller, body }) => create(caller, body),
    ),
    route(
      {
        ...under,
        method: 'GET',
        path: '/sandboxes/{sandboxID}',
        summary: 'A sandbox',
        responses: { 200: schemas.sandboxDetailSchema },
      },
      async ({ caller, params: { sandboxID } }) => ({
        status: 200,
        body: presentDetail(await service.get(caller, sandboxID), domain),
      }),
    ),
    route(
      {
        ...under,
        method: 'DELETE',
        path: '/sandboxes/{sandboxID}',
        summary: 'Kill a sandbox',
        responses: done,
      },
      async ({ caller, params: { sandboxID } }) => {
        await service.kill(caller, sandboxID);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/connect',
        summary: 'Connect; wakes a paused one (201)',
        body: schemas.connectBody,
        responses: connected,
        deprecated: true,
      },
      ({ caller, params: { sandboxID }, body }) => connect(caller, sandboxID, body.timeout),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/v2/sandboxes/{sandboxID}/connect',
        summary: 'Connect; wakes a paused one (201)',
        body: schemas.connectV2Body,
        bodyOptional: true,
        responses: connected,
      },
      ({ caller, params: { sandboxID }, body }) => connect(caller, sandboxID, body.timeout),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/resume',
        summary: 'Wake a paused sandbox',
        body: schemas.resumeBody,
        bodyOptional: true,
        responses: created,
        deprecated: true,
      },
      async ({ caller, params: { sandboxID }, body }) => ({
        status: 201,
        body: presentSandbox(await service.resume(caller, sandboxID, body.timeout * 1000), domain),
      }),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/pause',
        summary: 'Pause, memory and all, to disk',
        body: schemas.pauseBody,
        bodyOptional: true,
        responses: done,
      },
      async ({ caller, params: { sandboxID } }) => {
        await service.pause(caller, sandboxID);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/timeout',
        summary: 'Set when it ends, from now',
        body: schemas.timeoutBody,
        responses: done,
      },
      async ({ caller, params: { sandboxID }, body }) => {
        await service.setTimeout(caller, sandboxID, body.timeout * 1000);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/refreshes',
        summary: 'Extend its time',
        body: schemas.refreshBody,
        bodyOptional: true,
        responses: done,
        deprecated: true,
      },
      async ({ caller, params: { sandboxID }, body }) => {
        await service.refresh(caller, sandboxID, body.duration * 1000);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'PUT',
        path: '/sandboxes/{sandboxID}/network',
        summary: 'Replace what it may reach',
        body: schemas.networkUpdateBody,
        responses: done,
      },
      async ({ caller, params: { sandboxID }, body }) => {
        await service.updateNetwork(caller, sandboxID, toEgress(body.allow_internet_access, body));
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/snapshots',
        summary: 'Make a snapshot',
        body: schemas.snapshotBody,
        bodyOptional: true,
        responses: { 201: schemas.snapshotSchema },
      },
      async ({ caller, params: { sandboxID }, body }) => ({
        status: 201,
        body: presentSnapshot(await service.snapshot(caller, sandboxID, body.name ?? undefined)),
      }),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/fork',
        summary: 'Make copies that go on by themselves',
        body: schemas.forkBody,
        bodyOptional: true,
        responses: { 201: z.array(schemas.forkResultSchema) },
      },
      async ({ caller, params: { sandboxID }, body }) => {
        try {
          const copies = await service.fork(caller, sandboxID, body.count, body.timeout * 1000);
          return { status: 201, body: copies.map((copy) => ({ sandbox: presentSandbox(copy, domain) })) };
        } catch (error) {
          const answer = toAnswer(error);
          // The sandbox was there and ready, and no copy could be made: that is said of each.
          const isAway = error instanceof WrennError && error.code === 'sandbox_unavailable';
          if (answer.status !== 503 || isAway) throw error;
          return { status: 201, body: Array.from({ length: body.count }, () => ({ error: answer.body })) };
        }
      },
    ),
  ];
}

function toNetwork({ network, allow_internet_access }: schemas.NewSandboxBody): NetworkSettings {
  const { allowPublicTraffic, maskRequestHost } = network ?? {};
  return {
    ...toEgress(allow_internet_access, network ?? {}),
    ...(allowPublicTraffic == null ? {} : { allowPublicTraffic }),
    ...(maskRequestHost == null ? {} : { maskRequestHost }),
  };
}

function toEgress(
  allowInternetAccess: boolean | null | undefined,
  lists: { readonly allowOut?: string[] | null | undefined; readonly denyOut?: string[] | null | undefined },
): NetworkSettings {
  return {
    ...(allowInternetAccess == null ? {} : { allowInternetAccess }),
    ...(lists.allowOut == null ? {} : { allowOut: lists.allowOut }),
    ...(lists.denyOut == null ? {} : { denyOut: lists.denyOut }),
  };
}
