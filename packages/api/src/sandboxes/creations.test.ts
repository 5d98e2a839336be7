import { WrennError } from '@wrenn/protocol';
import { describe, expect, it, vi } from 'vitest';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { Logger } from '../log.ts';
import type { SandboxStore } from '../store/sandboxes.ts';
import { createCreations } from './creations.ts';

function scene() {
  const destroy = vi.fn<Agent['destroy']>(async () => {});
  const finish = vi.fn<SandboxStore['finish']>(async () => {});
  const store = { begin: async () => {}, finish, unfinished: async () => ['left'] };
  const log = { warn: () => {} } as unknown as Logger;
  const creations = createCreations({ destroy } as unknown as Agent, store as unknown as SandboxStore, log);
  return { creations, destroy, finish };
}

/** As the agent tells of one that was made under that note. */
const madeUnder = (note: string, id: string, state = 'running') =>
  ({ id, state, metadata: { 'wrenn.api.creation': note } }) as unknown as AgentSandbox;

describe('creations that nobody waits for', () => {
  it('go, each by itself: one that does not end keeps none of the others', async () => {
    const { creations, destroy } = scene();
    await creations.recover();
    destroy.mockRejectedValueOnce(new WrennError('deadline_exceeded', 'It took too long.'));
    const all = [madeUnder('left', 'a'), madeUnder('left', 'b'), madeUnder('kept', 'c')];
    await creations.sweep(all);
    expect(destroy.mock.calls).toEqual([['a'], ['b']]);
    await creations.sweep(all);
    expect(destroy.mock.calls.slice(2)).toEqual([['a'], ['b']]);
  });

  it('are left alone while they are being made', async () => {
    const { creations, destroy } = scene();
    await creations.recover();
    await creations.sweep([madeUnder('left', 'a', 'creating')]);
    expect(destroy).not.toHaveBeenCalled();
  });

  it.each([
    ['agent_not_running', ['a']],
    ['invalid_argument', []],
  ] as const)('are those whose end nobody knows: after %s', async (code, swept) => {
    const { creations, destroy, finish } = scene();
    let note = '';
    const made = creations.run('team', async (marks) => {
      note = marks['wrenn.api.creation'] ?? '';
      throw new WrennError(code, 'It failed.');
    });
    await expect(made).rejects.toMatchObject({ code });
    await creations.sweep([madeUnder(note, 'a')]);
    expect(destroy.mock.calls.map(([id]) => id)).toEqual(swept);
    // What is known to have come to nothing is no note any more.
    expect(finish).toHaveBeenCalledTimes(swept.length === 0 ? 1 : 0);
  });
});
