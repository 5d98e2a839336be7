/** Who uses a template, and its removal when nobody does. */
import { WrennError } from '@wrenn/protocol';
import type { SandboxDeps } from './deps.ts';
import type { Roster } from './roster.ts';
import { isInUse } from './view.ts';

export interface TemplateUsers {
  /** Until it is released the template is not removed. Throws `template_not_found` while it is being. */
  use(name: string): () => void;
  /** Throws `template_not_found`, `template_in_use`, `not_permitted`. */
  remove(name: string): Promise<void>;
}

/** So many are told by their ids. */
const NAMED_MAX = 5;

export function createTemplateUsers(deps: SandboxDeps, roster: Roster): TemplateUsers {
  const { config, snapshots, storage } = deps;
  /** By those who are not in the roster yet. */
  const borrowed = new Map<string, number>();
  const removing = new Set<string>();

  const usersOf = (name: string): string[] => {
    const sandboxes = roster
      .all()
      .map((sandbox) => sandbox.view())
      .filter((view) => view.template === name && isInUse(view));
    const copies = snapshots.list().filter(({ kind, template }) => kind !== 'warm' && template.name === name);
    const isPooled = config.pool.entries.some(({ template = config.defaults.template }) => template === name);
    return [
      ...told(
        'sandbox',
        'sandboxes',
        sandboxes.filter(({ isOwn }) => !isOwn),
      ),
      ...told(
        'snapshot',
        'snapshots',
        copies.filter(({ kind }) => kind === 'user'),
      ),
      ...(isPooled ? ['the pool (`pool.entries` of the configuration)'] : []),
      ...(sandboxes.some(({ isOwn }) => isOwn) || (borrowed.get(name) ?? 0) > 0
        ? ['sandboxes that are being made']
        : []),
    ];
  };

  const missing = (name: string): WrennError =>
    new WrennError('template_not_found', `There is no template ${JSON.stringify(name.slice(0, 64))}.`, {
      field: 'template',
    });

  return {
    use: (name) => {
      if (removing.has(name)) throw missing(name);
      borrowed.set(name, (borrowed.get(name) ?? 0) + 1);
      let isHeld = true;
      return () => {
        if (!isHeld) return;
        isHeld = false;
        const left = (borrowed.get(name) ?? 1) - 1;
        if (left > 0) borrowed.set(name, left);
        else borrowed.delete(name);
      };
    },
    remove: async (name) => {
      if (!(await storage.listTemplates()).some((template) => template.name === name)) throw missing(name);
      if (removing.has(name)) throw missing(name);
      // Not one await between the look and the mark.
      const users = usersOf(name);
      if (users.length > 0) {
        throw new WrennError('template_in_use', `The template ${name} is used by ${users.join(', ')}.`, {
          hint: 'Destroy and delete them first.',
        });
      }
      removing.add(name);
      try {
        // Before the template: what is left of it after a crash is whole.
        for (const snapshot of snapshots.list().filter(({ template }) => template.name === name)) {
          await snapshots.remove(snapshot.id);
          deps.driver.forget?.(snapshot);
        }
        await storage.removeTemplate(name);
      } finally {
        removing.delete(name);
      }
    },
  };
}

function told(one: string, many: string, all: readonly { readonly id: string }[]): string[] {
  if (all.length === 0) return [];
  const ids = all.slice(0, NAMED_MAX).map(({ id }) => id);
  const more = all.length > NAMED_MAX ? ', …' : '';
  return [`${all.length} ${all.length === 1 ? one : many} (${ids.join(', ')}${more})`];
}
