import type { Journal } from '../journal.ts';
import { type JournalRecord, parseRecord } from '../journal-record.ts';
import type { Ledger } from './ledger.ts';

export function fakeJournal(world: Ledger): Journal {
  const files = (id: string) => ({
    dir: `/s/${id}`,
    layer: `/s/${id}/layer`,
    runDir: `/s/${id}/run`,
    hibernation: (number: number) => {
      const dir = `/s/${id}/hibernation-${number}`;
      return { dir, statePath: `${dir}/state`, memoryPath: `${dir}/memory` };
    },
  });
  return {
    files,
    makeDirectories: async () => world.disturb('makeDirectories'),
    syncNames: async () => world.disturb('syncNames'),
    giveTo: async () => world.disturb('giveTo'),
    makeHibernation: async (id, number) => {
      await world.disturb('makeHibernation');
      return files(id).hibernation(number);
    },
    syncLayer: async () => world.disturb('syncLayer'),
    sealHibernation: async () => {
      await world.disturb('sealHibernation');
      return { memorySha256: '1'.repeat(64), stateSha256: '2'.repeat(64) };
    },
    removeHibernations: async (id, except) => {
      await world.disturb('removeHibernations');
      const kept = new Set(except.map((number) => files(id).hibernation(number).memoryPath));
      for (const path of world.snapshots) {
        if (path.startsWith(`/s/${id}/`) && !kept.has(path)) world.snapshots.delete(path);
      }
    },
    write: async (record) => {
      await world.disturb('journal');
      world.journals.set(record.id, JSON.stringify(record));
    },
    prepare: async (record) => {
      const text = JSON.stringify(record);
      await world.disturb('journal');
      return async () => {
        await world.disturb('journal');
        world.journals.set(record.id, text);
      };
    },
    remove: async (id) => {
      await world.disturb('remove');
      world.journals.delete(id);
      world.layers.delete(files(id).layer);
      for (const path of world.snapshots) if (path.startsWith(`/s/${id}/`)) world.snapshots.delete(path);
    },
    readAll: async () => {
      const records: JournalRecord[] = [];
      const unknownKeys = new Map<string, readonly string[]>();
      const corrupt: { id: string; problem: string; uid: undefined }[] = [];
      for (const [id, text] of world.journals) {
        try {
          const { record, unknown } = parseRecord(text, id);
          records.push(record);
          if (unknown.length > 0) unknownKeys.set(id, unknown);
        } catch (error) {
          corrupt.push({ id, problem: String(error), uid: undefined });
        }
      }
      return { records, unknownKeys, corrupt };
    },
    setAside: async () => {},
  };
}
