/** Templates, layers and snapshots, by their names alone. */
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted } from '../../signals/signals.ts';
import type { Snapshots } from '../../storage/snapshots.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Ledger } from './ledger.ts';

export function fakeStorage(world: Ledger): Storage {
  return {
    resolveTemplate: async (name) => {
      if (name !== 'base' || world.removedTemplates.includes(name)) {
        throw new WrennError('template_not_found', `There is no template ${name}.`, { field: 'template' });
      }
      const paths = { rootfsPath: '/base', guestImagePath: '/guest', kernelPath: '/k', initrdPath: '/i' };
      return { name, buildId: 'build-1', ...paths };
    },
    listTemplates: async () =>
      world.removedTemplates.includes('base')
        ? []
        : [{ name: 'base', buildId: 'build-1', sizeBytes: 1, builtAtMs: 1 }],
    removeTemplate: async (name) => {
      await world.disturb('removeTemplate');
      world.removedTemplates.push(name);
    },
    createLayer: async (path, _sizeMib, _owner, signal) => {
      await world.disturb('createLayer', signal);
      throwIfAborted(signal);
      world.layers.add(path);
    },
    copyLayer: async (from, to, _owner, signal) => {
      await world.disturb('copyLayer', signal);
      throwIfAborted(signal);
      if (!world.layers.has(from)) world.violations.push(`a copy of ${from}, which is not there`);
      world.layers.add(to);
    },
  };
}

/** The manifests are kept where the world's snapshots are: an agent that comes later finds them again. */
export function fakeSnapshots(world: Ledger): Snapshots {
  const filesOf = (id: string) => {
    const dir = `/snapshots/${id}`;
    return { statePath: `${dir}/state`, memoryPath: `${dir}/memory`, layerPath: `${dir}/layer` };
  };
  const { manifests } = world;
  /** Nobody finds these any more, although a later agent may. */
  const removing = new Set<string>();
  return {
    load: async () => world.disturb('load'),
    list: () => [...manifests.values()].filter(({ id }) => !removing.has(id)),
    get: (id) => {
      const found = removing.has(id) ? undefined : manifests.get(id);
      if (found === undefined) throw new WrennError('snapshot_not_found', `There is no snapshot ${id}.`);
      return found;
    },
    draft: async (id) => {
      await world.disturb('draft');
      const files = filesOf(id);
      let done = false;
      return {
        ...files,
        commit: async (about) => {
          await world.disturb('commit');
          const hash = '0'.repeat(64);
          const snapshot = {
            version: 2,
            id,
            ...about,
            stateSha256: hash,
            memorySha256: hash,
            ...files,
          } as const;
          manifests.set(id, snapshot);
          done = true;
          return snapshot;
        },
        discard: async () => {
          if (done) return;
          world.snapshots.delete(files.memoryPath);
          world.layers.delete(files.layerPath);
        },
      };
    },
    remove: async (id) => {
      removing.add(id);
      await world.disturb('removeSnapshot');
      manifests.delete(id);
      world.snapshots.delete(filesOf(id).memoryPath);
      world.layers.delete(filesOf(id).layerPath);
    },
  };
}
