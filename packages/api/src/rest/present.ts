/** Inner types as the bodies of answers. */

import type { MetricPoint } from '../sandboxes/metrics.ts';

import { buildUuid, type TemplateView } from '../sandboxes/templates.ts';
import type { AccessibleSandbox, SandboxView } from '../sandboxes/view.ts';
import type { ApiKey } from '../store/keys.ts';
import type { SnapshotRecord } from '../store/templates.ts';
import type { DetailAnswer, ListedAnswer, SandboxAnswer } from './schemas.ts';

/** SDKs insist on one; there is one host and nothing to tell apart. */
const CLIENT_ID = 'wrenn';
/** Of a build before sandboxes said which; all that this version makes are of this one. */
const ENVD_VERSION = '0.6.4';
const KEY_CHARS = 40;
/** SDKs are told this where no domain is configured: null would do, but not for the oldest. */

export function presentSandbox(
  { record, access }: AccessibleSandbox,
  domain: string | undefined,
): SandboxAnswer {
  return {
    sandboxID: record.id,
    templateID: record.template,
    clientID: CLIENT_ID,
    envdVersion: access.envdVersion,
    envdAccessToken: access.envdAccessToken,
    trafficAccessToken: record.trafficToken ?? null,
    domain: domain ?? null,
  };
}

export function presentListed(
  { record, sandbox, state }: SandboxView,
  envdVersion = ENVD_VERSION,
): ListedAnswer {
  return {
    sandboxID: record.id,
    templateID: record.template,
    clientID: CLIENT_ID,
    startedAt: record.createdAt.toISOString(),
    endAt: (sandbox.endsAt ?? record.endsAt).toISOString(),
    state,
    cpuCount: sandbox.vcpus,
    memoryMB: sandbox.memoryMib,
    diskSizeMB: sandbox.diskMib,
    envdVersion,
    metadata: record.metadata,
    volumeMounts: [],
  };
}

export function presentDetail(view: AccessibleSandbox, domain: string | undefined): DetailAnswer {
  const { record, access } = view;
  const { allowInternetAccess, allowOut, denyOut, allowPublicTraffic, maskRequestHost } = record.network;
  return {
    ...presentListed(view, access.envdVersion),
    envdAccessToken: access.envdAccessToken,
    domain: domain ?? null,
    allowInternetAccess: allowInternetAccess ?? null,
    network: {
      ...(allowOut === undefined ? {} : { allowOut }),
      ...(denyOut === undefined ? {} : { denyOut }),
      ...(allowPublicTraffic === undefined ? {} : { allowPublicTraffic }),
      ...(maskRequestHost === undefined ? {} : { maskRequestHost }),
    },
    lifecycle: { autoResume: record.autoResume, onTimeout: record.autoPause ? 'pause' : 'kill' },
  };
}

export function presentMetric(point: MetricPoint) {
  const { at, ...figures } = point;
  return { timestamp: at.toISOString(), timestampUnix: Math.floor(at.getTime() / 1000), ...figures };
}

export function presentSnapshot({ id, names }: Pick<SnapshotRecord, 'id' | 'names'>) {
  const [name] = names;
  return { snapshotID: name ?? `${id}:default`, names: [...names] };
}

const templateCommon = ({ name, aliases, use, createdAt }: TemplateView) => ({
  templateID: name,
  aliases: [name, ...aliases],
  names: [name, ...aliases],
  public: use.public,
  createdAt: createdAt.toISOString(),
  updatedAt: (use.updatedAt ?? createdAt).toISOString(),
  lastSpawnedAt: use.lastSpawnedAt?.toISOString() ?? null,
  spawnCount: use.spawnCount,
});

export function presentTemplate(view: TemplateView) {
  return {
    ...templateCommon(view),
    buildID: buildUuid(view.buildId),
    buildCount: 1,
    buildStatus: 'ready' as const,
    cpuCount: view.vcpus,
    memoryMB: view.memoryMib,
    diskSizeMB: view.diskMib,
    envdVersion: view.envdVersion,
    createdBy: null,
  };
}

export function presentTemplateDetail(view: TemplateView) {
  const { aliases, ...common } = templateCommon(view);
  const at = view.createdAt.toISOString();
  const build = {
    buildID: buildUuid(view.buildId),
    status: 'ready' as const,
    createdAt: at,
    updatedAt: at,
    finishedAt: at,
    cpuCount: view.vcpus,
    memoryMB: view.memoryMib,
    diskSizeMB: view.diskMib,
    envdVersion: view.envdVersion,
  };
  return { ...common, aliases, builds: [build] };
}

export function presentKey(key: ApiKey) {
  return {
    id: key.id,
    name: key.name,
    teamID: key.teamId,
    admin: key.admin,
    mask: {
      prefix: 'e2b_',
      valueLength: KEY_CHARS,
      maskedValuePrefix: key.prefix.slice('e2b_'.length),
      maskedValueSuffix: '',
    },
    limits: { ...key.limits },
    createdAt: key.createdAt.toISOString(),
    createdBy: null,
    expiresAt: key.expiresAt?.toISOString() ?? null,
    revokedAt: key.revokedAt?.toISOString() ?? null,
    lastUsed: key.lastUsedAt?.toISOString() ?? null,
  };
}
