import type { Cgroups } from '../../cgroups/cgroups.ts';
import type { Ledger } from './ledger.ts';

export function fakeCgroups(world: Ledger): Cgroups {
  const isAlive = (pid: number): boolean => world.vms.get(pid)?.alive === true;
  return {
    status: 'fake',
    complete: true,
    prepare: async (id) => {
      await world.disturb('prepare');
      world.cgroups.set(id, []);
    },
    enter: async (id, processes) => {
      await world.disturb('enter');
      const group = world.cgroups.get(id);
      if (group === undefined) world.violations.push(`${id} was to enter a group that there is not`);
      group?.push(...processes.map(({ pid }) => pid));
    },
    remove: async (id) => {
      await world.disturb('removeCgroup');
      if (world.cgroups.get(id)?.some(isAlive)) world.violations.push(`${id} was alive in its group`);
      world.cgroups.delete(id);
    },
    strays: async (known) => [...world.cgroups.keys()].filter((id) => !known.has(id)),
    whyKilled: async (id) => world.killedBecause.get(id),
    stop: async () => {},
  };
}
