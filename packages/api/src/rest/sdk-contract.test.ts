/**
 * Held against the newest SDK's own types, which are the contract: a path, a parameter or a field that it knows and this
 * API does not is an error of the compiler, and what is said here is then looked up in the document.
 */
import type { components, paths } from 'e2b';
import { expect, it } from 'vitest';
import type { z } from 'zod';
import { useTestApi } from '../testing/test-api.ts';
import type * as ours from './schemas.ts';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'] as const;
type Method = (typeof METHODS)[number];
type Methods<P extends keyof paths> = {
  [M in Method]: paths[P][M] extends object ? M : never;
}[Method];
type Query<P extends keyof paths, M extends Methods<P>> = paths[P][M] extends {
  parameters: { query?: infer Q };
}
  ? keyof NonNullable<Q>
  : never;
/** What it can be asked with, or nothing where Wrenn does not have it. */
type Operations = {
  [P in keyof paths]: { [M in Methods<P>]: { [Q in Query<P, M>]: true } | 'absent' };
};

const none = {};
const page = { limit: true, nextToken: true } as const;
const OPERATIONS: Operations = {
  '/sandboxes': { get: { metadata: true }, post: none },
  '/v2/sandboxes': {
    get: { ...page, metadata: true, order: true, startedAfter: true, state: true, template: true },
    post: none,
  },
  '/sandboxes/metrics': { get: { sandbox_ids: true } },
  '/sandboxes/{sandboxID}': { get: none, delete: none },
  '/sandboxes/{sandboxID}/connect': { post: none },
  '/v2/sandboxes/{sandboxID}/connect': { post: none },
  '/sandboxes/{sandboxID}/fork': { post: none },
  '/sandboxes/{sandboxID}/logs': { get: { limit: true, start: true } },
  '/v2/sandboxes/{sandboxID}/logs': {
    get: { cursor: true, direction: true, level: true, limit: true, search: true },
  },
  '/sandboxes/{sandboxID}/metrics': { get: { end: true, start: true } },
  '/sandboxes/{sandboxID}/network': { put: none },
  '/sandboxes/{sandboxID}/pause': { post: none },
  '/sandboxes/{sandboxID}/refreshes': { post: none },
  '/sandboxes/{sandboxID}/resume': { post: none },
  '/sandboxes/{sandboxID}/snapshots': { post: none },
  '/sandboxes/{sandboxID}/timeout': { post: none },
  '/snapshots': { get: { ...page, name: true, sandboxID: true } },
  '/templates': { get: { teamID: true } },
  '/v2/templates': { get: { ...page, teamID: true } },
  '/templates/{templateID}': { get: page, delete: none, patch: none },
  '/v2/templates/{templateID}': { patch: none },
  '/templates/{templateID}/tags': { get: none },
  '/templates/aliases/{alias}': { get: none },
  '/templates/tags': { post: none, delete: none },
  '/teams': { get: none },
  // Figures of a team, over all its sandboxes, are for Prometheus.
  '/teams/{teamID}/metrics': { get: 'absent' },
  '/teams/{teamID}/metrics/max': { get: 'absent' },
  // Building.
  '/v3/templates': { post: 'absent' },
  '/v2/templates/{templateID}/builds/{buildID}': { post: 'absent' },
  '/templates/{templateID}/builds/{buildID}/logs': { get: 'absent' },
  '/templates/{templateID}/builds/{buildID}/status': { get: 'absent' },
  '/templates/{templateID}/files/{hash}': { get: 'absent' },
  '/secrets': { get: 'absent', post: 'absent' },
  '/secrets/{secretID}': { get: 'absent', post: 'absent', delete: 'absent' },
  '/volumes': { get: 'absent', post: 'absent' },
  '/volumes/{volumeID}': { get: 'absent', delete: 'absent' },
};

type Theirs = components['schemas'];
/** As JSON has it: what is undefined is absent. */
type Json<T> = T extends readonly (infer Item)[]
  ? Json<Item>[]
  : T extends object
    ? { [K in keyof T]: Json<Exclude<T[K], undefined>> }
    : T;
/** What is told here is what they expect. */
type Told<Schema extends z.ZodType, Expected> = Json<z.output<Schema>> extends Json<Expected> ? true : never;
type Known<T> = keyof { [K in keyof T as string extends K ? never : K]: true };
/** The fields that they may send and nobody here knows. */
type Unknown<Sent, Taken> = Exclude<keyof Sent, Known<Taken>>;
/** Taken where they are true: Wrenn does not pause without the memory (docs/e2b.md). */
type TrueOnly = 'memory' | 'autoPauseMemory';
/** What they may send is taken here. */
type AskedAs<Taken, Sent> = [Unknown<Sent, Taken>] extends [never]
  ? Json<Omit<Sent, TrueOnly>> extends Taken
    ? true
    : never
  : never;
type Asked<Schema extends z.ZodType, Sent> = AskedAs<z.input<Schema>, Sent>;
type Network = NonNullable<z.input<typeof ours.newSandboxBody>['network']>;

/** Of each of the SDK's schemas that is served: `never` where they do not fit, and no value is that. */
type Fits = {
  Sandbox: Told<typeof ours.sandboxSchema, Theirs['Sandbox']>;
  ResumedSandbox: Asked<typeof ours.resumeBody, Theirs['ResumedSandbox']>;
  ListedSandbox: Told<typeof ours.listedSandboxSchema, Theirs['ListedSandbox']>;
  SandboxDetail: Told<typeof ours.sandboxDetailSchema, Theirs['SandboxDetail']>;
  SandboxMetric: Told<typeof ours.metricSchema, Theirs['SandboxMetric']>;
  SandboxesWithMetrics: Told<typeof ours.metricsOfManySchema, Theirs['SandboxesWithMetrics']>;
  SandboxLogs: Told<typeof ours.logsSchema, Theirs['SandboxLogs']>;
  SandboxLogsV2Response: Told<typeof ours.logsV2Schema, Theirs['SandboxLogsV2Response']>;
  SandboxForkResult: Told<typeof ours.forkResultSchema, Theirs['SandboxForkResult']>;
  SnapshotInfo: Told<typeof ours.snapshotSchema, Theirs['SnapshotInfo']>;
  Template: Told<typeof ours.templateSchema, Theirs['Template']>;
  TemplateWithBuilds: Told<typeof ours.templateDetailSchema, Theirs['TemplateWithBuilds']>;
  TemplateAliasResponse: Told<typeof ours.aliasSchema, Theirs['TemplateAliasResponse']>;
  TemplateTag: Told<typeof ours.tagSchema, Theirs['TemplateTag']>;
  AssignedTemplateTags: Told<typeof ours.assignedTagsSchema, Theirs['AssignedTemplateTags']>;
  TemplateUpdateResponse: Told<typeof ours.templateUpdateSchema, Theirs['TemplateUpdateResponse']>;
  Team: Told<typeof ours.teamSchema, Theirs['Team']>;
  Error: Told<typeof ours.errorSchema, Theirs['Error']>;
  NewSandbox: Asked<typeof ours.newSandboxBody, Theirs['NewSandbox']>;
  NewSandboxV2: Asked<typeof ours.newSandboxV2Body, Theirs['NewSandboxV2']>;
  SandboxNetworkConfig: AskedAs<Network, Theirs['SandboxNetworkConfig']>;
  ConnectSandbox: Asked<typeof ours.connectBody, Theirs['ConnectSandbox']>;
  ConnectSandboxV2: Asked<typeof ours.connectV2Body, Theirs['ConnectSandboxV2']>;
  SandboxPauseRequest: Asked<typeof ours.pauseBody, Theirs['SandboxPauseRequest']>;
  SandboxTimeoutRequest: Asked<typeof ours.timeoutBody, Theirs['SandboxTimeoutRequest']>;
  SandboxRefreshRequest: Asked<typeof ours.refreshBody, Theirs['SandboxRefreshRequest']>;
  SandboxForkRequest: Asked<typeof ours.forkBody, Theirs['SandboxForkRequest']>;
  SandboxSnapshotRequest: Asked<typeof ours.snapshotBody, Theirs['SandboxSnapshotRequest']>;
  SandboxNetworkUpdateConfig: Asked<typeof ours.networkUpdateBody, Theirs['SandboxNetworkUpdateConfig']>;
  AssignTemplateTagsRequest: Asked<typeof ours.assignTagsBody, Theirs['AssignTemplateTagsRequest']>;
  DeleteTemplateTagsRequest: Asked<typeof ours.deleteTagsBody, Theirs['DeleteTemplateTagsRequest']>;
  TemplateUpdateRequest: Asked<typeof ours.templateUpdateBody, Theirs['TemplateUpdateRequest']>;
};
const FITS: Fits = {
  Sandbox: true,
  ResumedSandbox: true,
  ListedSandbox: true,
  SandboxDetail: true,
  SandboxMetric: true,
  SandboxesWithMetrics: true,
  SandboxLogs: true,
  SandboxLogsV2Response: true,
  SandboxForkResult: true,
  SnapshotInfo: true,
  Template: true,
  TemplateWithBuilds: true,
  TemplateAliasResponse: true,
  TemplateTag: true,
  AssignedTemplateTags: true,
  TemplateUpdateResponse: true,
  Team: true,
  Error: true,
  NewSandbox: true,
  NewSandboxV2: true,
  SandboxNetworkConfig: true,
  ConnectSandbox: true,
  ConnectSandboxV2: true,
  SandboxPauseRequest: true,
  SandboxTimeoutRequest: true,
  SandboxRefreshRequest: true,
  SandboxForkRequest: true,
  SandboxSnapshotRequest: true,
  SandboxNetworkUpdateConfig: true,
  AssignTemplateTagsRequest: true,
  DeleteTemplateTagsRequest: true,
  TemplateUpdateRequest: true,
};

const { api } = useTestApi();

it('has every path and parameter that the SDK knows, but for what is not there yet and says so', async () => {
  const { paths: documented } = api.api.document;
  for (const [path, methods] of Object.entries(OPERATIONS)) {
    for (const [method, query] of Object.entries(methods)) {
      const operation = documented[path]?.[method];
      if (query === 'absent') {
        expect(operation, `${method} ${path}`).toBeUndefined();
        const answer = await api.call(method.toUpperCase(), path.replaceAll(/\{\w+\}/g, 'one'));
        expect([answer.status, answer.body.message]).toEqual([
          404,
          expect.stringContaining('does not support'),
        ]);
        continue;
      }
      const parameters = (operation?.parameters ?? []) as readonly { in: string; name: string }[];
      const names = parameters.filter((each) => each.in === 'query').map(({ name }) => name);
      expect(names, `${method} ${path}`).toEqual(expect.arrayContaining(Object.keys(query)));
      expect(operation, `${method} ${path}`).toBeDefined();
    }
  }
});

it('has the forms that the SDK knows, as the compiler has seen', () => {
  expect(Object.values(FITS)).toHaveLength(32);
});
