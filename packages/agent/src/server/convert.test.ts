import { SandboxState } from '@wrenn/protocol/agent';
import { describe, expect, it } from 'vitest';
import { createSandboxManager } from '../sandbox/manager.ts';
import { createFakeWorld } from '../sandbox/testing/fake-world.ts';
import { toSandboxProto } from './convert.ts';

describe('a sandbox as a message', () => {
  it('says that one is kept, and in which state it was left', async () => {
    const manager = createSandboxManager(createFakeWorld().deps);
    await manager.start(new AbortController().signal);
    const view = await manager.create({ template: 'base', memoryMib: 256 });
    expect(toSandboxProto(view).keptAs).toBe(SandboxState.UNSPECIFIED);
    const kept = toSandboxProto({ ...view, state: 'failed', isKept: true, keptAs: 'paused' });
    expect(kept).toMatchObject({ state: SandboxState.FAILED, keptAs: SandboxState.PAUSED });
  });
});
