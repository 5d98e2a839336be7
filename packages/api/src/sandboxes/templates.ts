/** What sandboxes are made of: the agent's templates with what the store knows of them, and a team's snapshots. */
import { createHash } from 'node:crypto';
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentTemplate } from '../agent-client/index.ts';
import type { Store } from '../store/index.ts';
import type { SnapshotRecord, TemplateTag, TemplateUse } from '../store/templates.ts';
import type { Caller } from './caller.ts';

export interface TemplateView extends AgentTemplate {
  readonly aliases: readonly string[];
  readonly use: TemplateUse;
}

export interface Origin {
  /** What its sandboxes say that they are of, however it was called: a template's name, or a snapshot's id. */
  readonly id: string;
  readonly from: { readonly template: string } | { readonly snapshotId: string };
  /** What its use is counted under; undefined for a snapshot. */
  readonly template: string | undefined;
  readonly vcpus: number;
  readonly memoryMib: number;
}

export interface Templates {
  /** What a sandbox is asked to be made from: a template, an alias, a build, or a snapshot, each with a tag. */
  resolve(caller: Caller, name: string): Promise<Origin>;
  list(caller: Caller): Promise<readonly TemplateView[]>;
  get(caller: Caller, name: string): Promise<TemplateView>;
  /** As `get`, and of a team's snapshots too; `not_permitted` where there is one that the caller may not use. */
  exists(caller: Caller, name: string): Promise<{ readonly id: string; readonly isPublic: boolean }>;
  /** What sandboxes that are of it say; the name as it is where there is nothing of that name any more. */
  idOf(caller: Caller, name: string): Promise<string>;
  tags(caller: Caller, name: string): Promise<readonly TemplateTag[]>;
  setPublic(caller: Caller, name: string, isPublic: boolean): Promise<TemplateView>;
  /** Of a template or, for its team, a snapshot. */
  remove(caller: Caller, name: string): Promise<void>;
  assignTags(caller: Caller, target: string, tags: readonly string[]): Promise<string>;
  removeTags(caller: Caller, name: string, tags: readonly string[]): Promise<void>;
  addSnapshot(caller: Caller, sandboxId: string, name: string | undefined): Promise<SnapshotRecord>;
  snapshots(caller: Caller): Promise<readonly SnapshotRecord[]>;
}

const DEFAULT_TAG = 'default';
const NEVER_USED: TemplateUse = {
  public: true,
  spawnCount: 0,
  lastSpawnedAt: undefined,
  updatedAt: undefined,
};

export function createTemplates(agent: Agent, store: Store): Templates {
  const all = async (): Promise<readonly TemplateView[]> => {
    const [templates, uses, aliases] = await Promise.all([
      agent.templates(),
      store.templates.uses(),
      store.templates.aliases(),
    ]);
    return templates.map((template) => ({
      ...template,
      aliases: [...aliases].filter(([, name]) => name === template.name).map(([alias]) => alias),
      use: uses.get(template.name) ?? NEVER_USED,
    }));
  };

  const views = async (caller: Caller): Promise<readonly TemplateView[]> =>
    (await all()).filter(({ use }) => use.public || caller.admin);

  const find = async (caller: Caller, name: string): Promise<TemplateView> => {
    const found = (await views(caller)).find(isCalled(name));
    if (found === undefined) throw noTemplate(name);
    return found;
  };

  const findSnapshot = async (caller: Caller, name: string, tag: string) =>
    (await store.snapshots.get(caller.teamId, name)) ??
    (await store.snapshots.byName(caller.teamId, `${name}:${tag}`));

  const taggedBuild = async ({ name, buildId }: AgentTemplate, tag: string): Promise<string> => {
    if (tag === DEFAULT_TAG) return buildId;
    const found = (await store.templates.tags(name)).find((known) => known.tag === tag);
    if (found === undefined) throw noTemplate(`${name}:${tag}`);
    return found.buildId;
  };

  const shared = (caller: Caller): void => {
    if (caller.admin) return;
    throw new WrennError('not_permitted', 'Templates are shared by all: only an admin key may change them.');
  };

  const lately = rememberTemplates(agent);

  return {
    resolve: async (caller, text) => {
      const { name, tag } = splitTag(text);
      // Every creation waits for this: one question to each at most, both at once.
      const remembered = lately.get();
      const [known, { snapshotId, aliasOf, hidden }] = await Promise.all([
        remembered ?? lately.ask(),
        store.templates.meanings(caller.teamId, name, `${name}:${tag}`),
      ]);
      if (snapshotId !== undefined) {
        const snapshot = (await agent.snapshots()).find(({ id }) => id === snapshotId);
        if (snapshot === undefined) throw noTemplate(text);
        const { vcpus, memoryMib } = snapshot;
        return { id: snapshotId, from: { snapshotId }, template: undefined, vcpus, memoryMib };
      }
      const isMeant = (one: AgentTemplate): boolean =>
        (one.name === name || one.buildId === name || one.name === aliasOf) &&
        (caller.admin || !hidden.has(one.name));
      const found =
        known.find(isMeant) ?? (remembered === undefined ? undefined : (await lately.ask()).find(isMeant));
      if (found === undefined) throw noTemplate(name);
      const { vcpus, memoryMib } = found;
      const template = tag === DEFAULT_TAG ? found.name : await taggedBuild(found, tag);
      return { id: found.name, from: { template }, template: found.name, vcpus, memoryMib };
    },
    list: views,
    get: find,
    exists: async (caller, text) => {
      const { name, tag } = splitTag(text);
      const snapshot = await findSnapshot(caller, name, tag);
      if (snapshot !== undefined) return { id: snapshot.id, isPublic: false };
      const hidden = (await all()).find(isCalled(name));
      if (hidden === undefined) throw noTemplate(text);
      await taggedBuild(hidden, tag);
      if (hidden.use.public || caller.admin) return { id: hidden.name, isPublic: hidden.use.public };
      throw new WrennError('not_permitted', 'There is a template of this name, and it is not public.');
    },
    idOf: async (caller, text) => {
      const { name, tag } = splitTag(text);
      const snapshot = await findSnapshot(caller, name, tag);
      return snapshot?.id ?? (await views(caller)).find(isCalled(name))?.name ?? text;
    },
    tags: async (caller, name) => {
      const { name: template, buildId, createdAt } = await find(caller, name);
      return [{ tag: DEFAULT_TAG, buildId, createdAt }, ...(await store.templates.tags(template))];
    },
    setPublic: async (caller, name, isPublic) => {
      const view = await find(caller, name);
      shared(caller);
      await store.templates.setPublic(view.name, isPublic);
      return view;
    },
    remove: async (caller, text) => {
      const { name, tag } = splitTag(text);
      const snapshot = await findSnapshot(caller, name, tag);
      if (snapshot !== undefined) {
        await agent.deleteSnapshot(snapshot.id).catch((error: unknown) => {
          // What the agent does not have any more is deleted.
          if (!(error instanceof WrennError) || error.code !== 'snapshot_not_found') throw error;
        });
        await store.snapshots.remove(snapshot.id);
        return;
      }
      const view = await find(caller, name);
      shared(caller);
      if (tag !== DEFAULT_TAG) {
        throw new WrennError('invalid_argument', 'A template is deleted as a whole; tags are taken away.', {
          field: 'templateID',
        });
      }
      await agent.deleteTemplate(view.name);
      lately.forget();
      await store.templates.forget(view.name);
    },
    assignTags: async (caller, target, tags) => {
      const { name, tag } = splitTag(target);
      const view = await find(caller, name);
      shared(caller);
      if (tags.includes(DEFAULT_TAG)) {
        throw new WrennError('invalid_argument', '`default` is always the newest build.', { field: 'tags' });
      }
      const buildId = await taggedBuild(view, tag);
      await store.templates.setTags(view.name, tags, buildId);
      return buildId;
    },
    removeTags: async (caller, name, tags) => {
      const view = await find(caller, name);
      shared(caller);
      if ((await store.templates.removeTags(view.name, tags)) === 0)
        throw noTemplate(`${name}:${tags.join(',')}`);
    },
    addSnapshot: async (caller, sandboxId, name) => {
      const { id, createdAt } = await agent.snapshot(sandboxId);
      const names = name === undefined ? [] : [fullName(name)];
      const snapshot = { id, teamId: caller.teamId, sandboxId, createdAt, names };
      try {
        await store.snapshots.add({ ...snapshot, keyId: caller.keyId });
      } catch (error) {
        await agent.deleteSnapshot(id).catch(() => {});
        throw error;
      }
      return { ...snapshot, number: 0n };
    },
    snapshots: (caller) => store.snapshots.list(caller.teamId),
  };
}

/** For that long an agent that was started again with other default sizes is not noticed. */
const REMEMBERED_MS = 60_000;

/**
 * The agent's list, for creations: it reads files for each, and a template that is in the list hardly ever goes. Whether it is
 * still there the agent looks itself before it makes anything of it; one that is not in the list may be new.
 */
function rememberTemplates(agent: Agent) {
  let known: { readonly list: readonly AgentTemplate[]; readonly untilMs: number } | undefined;
  return {
    get: () => (known !== undefined && performance.now() < known.untilMs ? known.list : undefined),
    ask: async () => {
      const list = await agent.templates();
      known = { list, untilMs: performance.now() + REMEMBERED_MS };
      return list;
    },
    forget: () => {
      known = undefined;
    },
  };
}

function isCalled(name: string): (view: TemplateView) => boolean {
  return (view) => view.name === name || view.buildId === name || view.aliases.includes(name);
}

/** `name:tag`, with the tag `default` where there is none. */
export function splitTag(text: string): { readonly name: string; readonly tag: string } {
  const at = text.lastIndexOf(':');
  if (at === -1) return { name: text, tag: DEFAULT_TAG };
  return { name: text.slice(0, at), tag: text.slice(at + 1) || DEFAULT_TAG };
}

export function fullName(text: string): string {
  const { name, tag } = splitTag(text);
  return `${name}:${tag}`;
}

/** SDKs take build ids for UUIDs: the same one always for the same build. */
export function buildUuid(buildId: string): string {
  const hex = createHash('sha256').update(buildId).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function noTemplate(name: string): WrennError {
  return new WrennError(
    'template_not_found',
    `Template ${JSON.stringify(name.slice(0, 128))} was not found.`,
    {
      field: 'templateID',
    },
  );
}
