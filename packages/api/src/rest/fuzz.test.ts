/**
 * At least 10,000 requests made of the OpenAPI document, from those who have no key, those who have another's, and
 * those who mean harm with their own; on a database server 2,000. WRENN_FUZZ_REQUESTS makes it more, WRENN_FUZZ_SEED makes it the same again.
 */
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { toJson } from '@bufbuild/protobuf';
import { SandboxSchema, SnapshotSchema } from '@wrenn/protocol/agent';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type FuzzNames, type FuzzRequest, operationsOf, requestTo, strangeKeys } from '../testing/fuzz.ts';
import { createChecker, type Harness, STORE_SETTING, startHarness } from '../testing/harness.ts';

/** On a server, where each takes longer: it is the same SQL. */
const REQUESTS_MIN = process.env[STORE_SETTING] === 'server' ? 2_000 : 10_000;
const REQUESTS = Math.max(REQUESTS_MIN, Number(process.env.WRENN_FUZZ_REQUESTS ?? REQUESTS_MIN));
const SEED = Number(process.env.WRENN_FUZZ_SEED ?? Date.now() % 2 ** 31);
const PER_ROUND = 10;
const TIMEOUT_MS = 60_000 + REQUESTS * 20;
const HEAP_GROWTH_MAX_BYTES = 48 * 1024 * 1024;

let api: Harness;
let names: FuzzNames;
let mine: string;
let theirs: string;
let dead: string[];
/** What nobody but its owner, or nobody at all, may be told. */
let secrets: string[];
let sent = 0;
const statuses = new Map<number, number>();
/** Of a fuzzer that is always refused at the door nobody learns much. */
const accepted = new Set<string>();
const connections = new Agent({ keepAlive: true, maxSockets: 32 });

beforeAll(async () => {
  process.stdout.write(`fuzzing with WRENN_FUZZ_SEED=${SEED}\n`);
  api = await startHarness({
    config: { domain: 'sandboxes.test', requests: { wrongKeysPerMinute: 1_000_000 } },
  });
  const { store } = api;
  const limits = { createsPerMinute: 100_000 };
  const [first, second, expired, revoked] = await Promise.all([
    store.keys.create({ name: 'mine', limits }),
    store.keys.create({ name: 'theirs', limits }),
    store.keys.create({ name: 'expired', expiresAt: new Date(Date.now() - 1000) }),
    store.keys.create({ name: 'revoked' }),
  ]);
  await store.keys.revoke(revoked.key.id);
  team = first.key.teamId;
  [mine, theirs, dead] = [first.secret, second.secret, [expired.secret, revoked.secret]];
  const network = { allowPublicTraffic: false };
  const make = async () =>
    (
      await api.call('POST', '/v2/sandboxes', {
        key: mine,
        body: { templateID: 'base', network, timeout: 86_400 },
      })
    ).body;
  const [running, paused] = [await make(), await make()];
  await api.call('POST', `/sandboxes/${paused.sandboxID}/pause`, { key: mine });
  const { body: snapshot } = await api.call('POST', `/sandboxes/${running.sandboxID}/snapshots`, {
    key: mine,
    body: { name: 'secret-snapshot' },
  });
  const [{ id: snapshotId = '' } = {}] = await store.snapshots.list(first.key.teamId);
  names = {
    sandboxIds: [running.sandboxID, paused.sandboxID],
    templates: ['base', 'minimal:default', snapshot.snapshotID, 'secret-snapshot', snapshotId],
    keyIds: [first.key.id, second.key.id],
  };
  secrets = [
    mine,
    theirs,
    api.key,
    ...dead,
    ...[running, paused].flatMap((made) => [made.envdAccessToken, made.trafficAccessToken]),
  ];
}, 60_000);
afterAll(async () => {
  connections.destroy();
  await api.close();
  process.stdout.write(`fuzzed: ${sent} requests, answers ${JSON.stringify(Object.fromEntries(statuses))}\n`);
});

describe('requests made of the document', () => {
  it('change nothing and learn nothing without a key that holds', { timeout: TIMEOUT_MS }, async () => {
    const before = await state();
    await rounds(
      0.5,
      () => fc.record({ request: requests(), shown: strangeKeys(mine, dead) }),
      async (round) => {
        const answers = await Promise.all(round.map(({ request, shown }) => ask(request, shown)));
        for (const { request, status, text } of answers) {
          if (isOpen(request.operation)) continue;
          expectError(status, text, request);
        }
        expect(await state()).toEqual(before);
      },
    );
  });

  it('change and learn nothing of another team’s', { timeout: TIMEOUT_MS }, async () => {
    const before = await state();
    const aimed = operationsOf(api.api.document).filter(({ path }) => /\{(sandboxID|apiKeyID)\}/.test(path));
    const one = () => fc.oneof(...aimed.map((operation) => requestTo(operation, api.api.document, names)));
    await rounds(0.25, one, async (round) => {
      const answers = await Promise.all(round.map((request) => ask(request, { 'x-api-key': theirs })));
      for (const { status, text, request } of answers) expectError(status, text, request);
      expect(await state()).toEqual(before);
    });
  });

  it('do only what they say with a key of one’s own', { timeout: TIMEOUT_MS }, async () => {
    const own = await owned();
    const before = await state(isMine);
    await rounds(
      0.15,
      () => requests(own.names),
      async (round) => {
        const ids = await own.alive();
        let earlier = await state();
        for (const request of round) {
          const { status, text } = await ask(withIds(request, ids), { 'x-api-key': theirs });
          const later = await state();
          if (status >= 400) {
            expectError(status, text, request);
            expectNothingNew(earlier, later, `${request.method} ${request.path} ${request.body} → ${text}`);
          }
          earlier = later;
        }
        expect(await state(isMine)).toEqual(before);
        await tidy();
      },
    );
  });

  it('break nothing with a key that manages', { timeout: TIMEOUT_MS }, async () => {
    const { key: spare } = await api.store.keys.create({ name: 'spare' });
    const own = await owned(api.key, [spare.id]);
    await rounds(
      0.1,
      () => requests(own.names),
      async (round) => {
        const ids = await own.alive();
        const answers = await Promise.all(
          round.map((request) => ask(withIds(request, ids), { 'x-api-key': api.key })),
        );
        for (const { status, text, request } of answers)
          if (status >= 400) expectError(status, text, request);
        await tidy();
      },
    );
    expect(await api.store.keys.authenticate(mine)).toBeDefined();
  });

  it('leave a server that works, with its memory and its log in order', async () => {
    expect(sent).toBeGreaterThanOrEqual(REQUESTS);
    const all = operationsOf(api.api.document).map(({ method, path }) => `${method} ${path}`);
    // A few hundred of one's own are too few to be sure of that.
    if (REQUESTS >= 10_000) expect(accepted.size).toBeGreaterThan(all.length * 0.8);
    expect((await api.call('GET', '/v2/sandboxes', { key: mine })).body).toHaveLength(
      names.sandboxIds.length,
    );
    const log = api.logged.join('');
    for (const secret of secrets) expect(log).not.toContain(secret);
    expect(log).not.toContain('"level":50');
    expect(await api.store.sandboxes.unfinished()).toEqual([]);
    expect((await api.call('GET', '/metrics')).body).toMatch(/^wrenn_api_requests_in_flight 1$/m);
  });

  it('cost no memory that stays', { timeout: TIMEOUT_MS }, async () => {
    const use = async (count: number) => {
      for (const request of fc.sample(requests(), { numRuns: count, seed: SEED })) await ask(request, {});
    };
    await use(200);
    api.forgetLog();
    const before = heapBytes();
    await use(Math.max(1000, REQUESTS / 20));
    api.forgetLog();
    expect(heapBytes() - before).toBeLessThan(HEAP_GROWTH_MAX_BYTES);
  });
});

function requests(own: FuzzNames = names): fc.Arbitrary<FuzzRequest> {
  const { document } = api.api;
  return fc.oneof(...operationsOf(document).map((operation) => requestTo(operation, document, own)));
}

async function rounds<T>(
  share: number,
  one: () => fc.Arbitrary<T>,
  check: (round: T[]) => Promise<void>,
): Promise<void> {
  const round = fc.array(one(), { minLength: PER_ROUND, maxLength: PER_ROUND });
  const numRuns = Math.ceil((REQUESTS * share) / PER_ROUND);
  await fc.assert(fc.asyncProperty(round, check), { seed: SEED, numRuns, endOnFailure: true });
}

interface Answered {
  readonly status: number;
  readonly text: string;
  readonly request: FuzzRequest;
}

/** Sends it as it is; whatever comes back must be what the document has, and leak nothing. */
async function ask(request: FuzzRequest, shown: Readonly<Record<string, string>>): Promise<Answered> {
  sent += 1;
  const { method, path, headers, body } = request;
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const outgoing = httpRequest(`${api.url}`, {
      method,
      path,
      agent: connections,
      headers: { ...headers, ...shown, ...(body === undefined ? {} : { 'content-length': body.length }) },
    });
    outgoing.once('response', resolve).once('error', reject);
    outgoing.end(body);
  });
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString('utf8');
  const status = answer.statusCode ?? 0;
  statuses.set(status, (statuses.get(status) ?? 0) + 1);
  const what = `${method} ${path} → ${status} ${text.slice(0, 500)}`;
  expect(status, what).toBeLessThan(500);
  if (status < 300) accepted.add(request.operation);
  const isJson = answer.headers['content-type']?.startsWith('application/json') === true;
  // An address that a parameter has led elsewhere is known by what it was made of.
  const isAsked = !/[^\w/{}-]/.test(new URL(path, api.url).pathname) && status < 400;
  if (isAsked)
    check()(method, new URL(path, api.url).pathname, status, isJson ? JSON.parse(text) : text, isJson);
  const allowed = new Set(Object.values(shown).flatMap((value) => [value, value.replace(/^Bearer /, '')]));
  const told = JSON.stringify(answer.headers) + text;
  for (const secret of secrets) if (!allowed.has(secret)) expect(told.includes(secret), what).toBe(false);
  expect(told, what).not.toMatch(/\n\s+at |node_modules|node:internal|\.ts:\d|wrenn-api-|agent\.sock/);
  expect(text, what).not.toMatch(/ZodError|PGlite|syntax error|violates|insert into|"cause"|"stack"/i);
  return { status, text, request };
}

let checker: ReturnType<typeof createChecker> | undefined;
function check(): ReturnType<typeof createChecker> {
  checker ??= createChecker(api.api.document);
  return checker;
}

function expectError(status: number, text: string, request: FuzzRequest): void {
  const what = `${request.method} ${request.path} → ${status} ${text.slice(0, 300)}`;
  expect(status, what).toBeGreaterThanOrEqual(400);
  const body: unknown = JSON.parse(text);
  expect(body, what).toEqual({ code: status, message: expect.stringMatching(/\S/) });
}

function isOpen(operation: string): boolean {
  return operation === 'GET /health';
}

type State = Readonly<Record<string, readonly string[]>>;

/** All that the store and the agent have, but for when a key was used. */
async function state(only: (owner: string | undefined) => boolean = () => true): Promise<State> {
  const { store, agent } = api;
  const [keys, records, unfinished, uses, aliases] = await Promise.all([
    store.keys.list(),
    store.sandboxes.live(),
    store.sandboxes.unfinished(),
    store.templates.uses(),
    store.templates.aliases(),
  ]);
  const [snapshots, tags] = await Promise.all([
    Promise.all([...new Set(keys.map(({ teamId }) => teamId))].map((team) => store.snapshots.list(team))),
    Promise.all(['base', 'minimal'].map((template) => store.templates.tags(template))),
  ]);
  const teams = new Map(records.map(({ id, teamId }) => [id, teamId]));
  const kept = snapshots.flat();
  const snapshotTeams = new Map(kept.map(({ id, teamId }) => [id, teamId]));
  const text = (value: unknown) =>
    JSON.stringify(value, (_key, part: unknown) => (typeof part === 'bigint' ? String(part) : part));
  const all = only(undefined);
  return {
    keys: keys
      .filter(({ teamId }) => only(teamId))
      .map((key) => text({ ...key, lastUsedAt: undefined }))
      .sort(),
    records: records.filter(({ teamId }) => only(teamId)).map(text),
    snapshots: kept.filter(({ teamId }) => only(teamId)).map(text),
    unfinished: all ? unfinished : [],
    templates: all ? [...[...uses].map(text), ...[...aliases].map(text), ...tags.flat().map(text)] : [],
    agent: [
      ...[...agent.sandboxes]
        .filter(([id]) => only(teams.get(id)))
        .map(([id, one]) => {
          const whole = toJson(SandboxSchema, one);
          // Those that are made meanwhile end or fall asleep by themselves.
          const own = isMine(teams.get(id)) ? {} : { state: '', endsAt: '', address: '' };
          // Named first, so that whatever has no end yet has its fields in the same order as what has.
          return text({ state: undefined, endsAt: undefined, address: undefined, ...Object(whole), ...own });
        }),
      ...[...agent.snapshots]
        .filter(([id]) => only(snapshotTeams.get(id)))
        .map(([, one]) => text(toJson(SnapshotSchema, one))),
    ],
  };
}

let team: string | undefined;
function isMine(owner: string | undefined): boolean {
  return owner !== undefined && owner === team;
}

/**
 * Sandboxes may end by themselves meanwhile; nothing may be there that was not, or be otherwise than it was. But for the
 * time of one that has ended: a sandbox that is woken for no time at all may be gone before it can be told of.
 */
function expectNothingNew(before: State, after: State, what: string): void {
  const hasEnded = (record: string) => !api.agent.sandboxes.has(String(JSON.parse(record).id));
  for (const [kind, items] of Object.entries(after)) {
    const known = new Set(before[kind]);
    expect(
      items.filter((item) => !known.has(item) && !(kind === 'records' && hasEnded(item))),
      what,
    ).toEqual([]);
  }
}

interface Owned {
  readonly names: FuzzNames;
  /** Ids for the names, of sandboxes that are there: requests end them all the time. */
  alive(): Promise<readonly string[]>;
}

const OWN = ['ownsandbox0', 'ownsandbox1', 'ownsandbox2'];

/** A few sandboxes of the key's own, among those of another's. */
async function owned(key = theirs, keyIds = names.keyIds): Promise<Owned> {
  const ids: string[] = [];
  return {
    names: {
      sandboxIds: [...OWN, ...OWN, ...names.sandboxIds],
      templates: ['base', 'minimal', 'own', 'own:v2', ...names.templates],
      keyIds,
    },
    alive: async () => {
      for (const n of OWN.keys()) {
        if (api.agent.sandboxes.has(ids[n] ?? '')) continue;
        const body = { templateID: 'base', timeout: 86_400 };
        ids[n] = (await api.call('POST', '/v2/sandboxes', { key, body })).body.sandboxID;
      }
      return ids;
    },
  };
}

function withIds(request: FuzzRequest, ids: readonly string[]): FuzzRequest {
  return { ...request, path: request.path.replaceAll(/ownsandbox(\d)/g, (_, n) => ids[Number(n)] ?? '') };
}

/** So that lists stay short. */
async function tidy(): Promise<void> {
  if (api.agent.sandboxes.size < 60) return;
  for (const record of await api.store.sandboxes.live()) {
    if (record.teamId === team) continue;
    await api.call('DELETE', `/sandboxes/${record.id}`, { key: await keyOf(record.teamId) });
  }
}

async function keyOf(teamId: string): Promise<string> {
  return (await api.store.keys.authenticate(theirs))?.teamId === teamId ? theirs : api.key;
}

function heapBytes(): number {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  if (typeof collect === 'function') {
    collect();
    collect();
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
