import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import { type Checkpoint, CREATE_STEPS } from './deps.ts';
import { collect } from './exec.ts';
import { startEvent } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, never, request, start, until } from './testing/manager-harness.ts';

describe('the life of a sandbox', () => {
  it('is created, used, paused, resumed and destroyed without a trace', async () => {
    const { world, manager } = await start();
    const created = await manager.create({ ...request, metadata: { a: 'b' } });
    expect(created).toMatchObject({ state: 'running', metadata: { a: 'b' }, address: '192.0.2.0' });
    expect(created.phases.map(({ name }) => name)).toEqual([...CREATE_STEPS]);

    const { stdout, exit } = await collect(
      manager.exec(created.id, { command: ['echo', 'hi', 'there'], envs: {}, stdin: false }, never),
    );
    expect({ stdout, exit: exit.exitCode }).toEqual({ stdout: 'hi there', exit: 0 });

    expect(await manager.pause(created.id)).toMatchObject({ state: 'paused' });
    expect(world.aliveVms().map(({ status }) => status)).toEqual(['paused']);
    expect(await codeOf(manager.pause(created.id))).toBe('sandbox_wrong_state');
    expect(
      await codeOf(manager.exec(created.id, { command: ['x'], envs: {}, stdin: false }, never).next()),
    ).toBe('sandbox_wrong_state');
    expect(await manager.resume(created.id)).toMatchObject({ state: 'running' });
    expect(await codeOf(manager.resume(created.id))).toBe('sandbox_wrong_state');

    await manager.destroy(created.id);
    expect(manager.list()).toEqual([]);
    expect(await codeOf(manager.destroy(created.id))).toBe('sandbox_not_found');
    expectNothingLeft(world);
  });

  it.each(
    CREATE_STEPS.flatMap((step) => [
      { step, moment: 'before' as const },
      { step, moment: 'after' as const },
    ]),
  )('leaves nothing when its creation fails $moment $step', async ({ step, moment }) => {
    const checkpoint: Checkpoint = (at, when) => {
      if (at === step && when === moment) throw new WrennError('internal', 'on purpose');
    };
    const { world, manager } = await start({ checkpoint });
    await expect(manager.create(request)).rejects.toThrow('on purpose');
    expectNothingLeft(world);
    expect(world.counted).toContain('createFailed internal');
    expect(manager.liveCount()).toBe(0);
  });

  it('pre-empts a creation that is under way when it is destroyed', async () => {
    const { world, manager } = await start();
    world.disturb = (operation, signal) =>
      operation === 'health' ? sleep(60_000, undefined, signal ? { signal } : {}) : Promise.resolve();
    const creating = codeOf(manager.create(request));
    await until(() => world.aliveVms().length === 1);
    const [listed] = manager.list();
    expect(listed?.state).toBe('creating');
    expect(await codeOf(manager.pause(listed?.id ?? ''))).toBe('sandbox_wrong_state');
    await Promise.all([manager.destroy(listed?.id ?? ''), manager.destroy(listed?.id ?? '')]);
    expect(await creating).toBe('sandbox_not_found');
    expect(manager.list()).toEqual([]);
    expectNothingLeft(world);
  });

  it('tells why it failed when its VMM dies, ends its commands, and holds nothing any more', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(7);
      await new Promise(() => {});
    };
    const running = codeOf(collect(manager.exec(id, { command: ['sleep'], envs: {}, stdin: false }, never)));
    await until(() => world.counted.includes('exec'));
    world.aliveVms()[0]?.die('QEMU was killed by SIGKILL');
    expect(await running).toBe('sandbox_failed');
    await until(() => manager.get(id).state === 'failed');
    expect(manager.get(id)).toMatchObject({ state: 'failed', reason: 'QEMU was killed by SIGKILL' });
    expectNothingLeft(world);
    expect(await codeOf(manager.pause(id))).toBe('sandbox_failed');
    let text = '';
    for await (const part of manager.logs(id, true, never)) text += part;
    expect(text).toBe('booting\nbooted\n');
    await manager.destroy(id);
    expect(await codeOf(Promise.resolve().then(() => manager.get(id)))).toBe('sandbox_not_found');
  });

  it('boots instead where its guest refuses before it is handed out', async () => {
    const { world, manager } = await start();
    await manager.warmTemplate(request);
    world.onAnsweredFirst = (refuse) => {
      world.onAnsweredFirst = () => {};
      refuse(new WrennError('guest_protocol', 'no room'));
    };
    const { id, state, snapshotId } = await manager.create(request);
    expect([state, snapshotId]).toEqual(['running', undefined]);
    await manager.destroy(id);
    for (const { id: failed } of manager.list()) await manager.destroy(failed);
    expectNothingLeft(world);
  });

  it('is refused where its journal finds no room, and its warm template is as good as before', async () => {
    const { world, manager } = await start();
    await manager.warmTemplate(request);
    // The first record, the process, and that it runs.
    for (const last of [1, 2, 3]) {
      let left = last;
      world.disturb = async (operation) => {
        if (operation !== 'journal' || --left !== 0) return;
        throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
      };
      expect(await codeOf(manager.create(request)), String(last)).toBe('disk_full');
      world.disturb = async () => {};
      for (const { id } of manager.list()) await manager.destroy(id);
    }
    const { id, snapshotId } = await manager.create(request);
    expect(snapshotId).toBeDefined();
    await manager.destroy(id);
    expect(world.aliveVms()).toEqual([]);
    expect(world.violations).toEqual([]);
  });

  it('is gone when it is destroyed while it fails', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.disturb = () => sleep(5);
    world.aliveVms()[0]?.die('on purpose');
    await sleep(1);
    expect(manager.get(id).state).toBe('destroying');
    await manager.destroy(id);
    expect(manager.list()).toEqual([]);
    expectNothingLeft(world);
  });

  it('is destroyed when its time is up', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create({ ...request, timeoutMs: 60_000 });
    await manager.setTimeout(id, undefined);
    expect(manager.get(id).endsAtMs).toBeUndefined();
    await manager.setTimeout(id, 20);
    await until(() => manager.list().length === 0);
    expectNothingLeft(world);
  });

  it('hibernates when its time is up, where that was wished, and has no end then', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create({ ...request, timeoutMs: 20, onTimeout: 'hibernate' });
    await until(() => manager.get(id).state === 'hibernated');
    expect(manager.get(id)).toMatchObject({ onTimeout: 'hibernate', endsAtMs: undefined });
    await manager.resume(id);
    expect(manager.get(id)).toMatchObject({ state: 'running', endsAtMs: undefined });
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('runs on when its time is up and it cannot hibernate', async () => {
    const { world, manager } = await start();
    let tried = 0;
    world.disturb = async (operation) => {
      if (operation !== 'snapshot') return;
      tried++;
      throw new WrennError('disk_full', 'no room');
    };
    const { id } = await manager.create({ ...request, timeoutMs: 20, onTimeout: 'hibernate' });
    await until(() => tried > 0 && manager.get(id).state === 'running');
    expect(manager.get(id).endsAtMs).toBeLessThanOrEqual(Date.now());
    world.disturb = async () => {};
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('has the rules of its network that were asked for, and gets others', async () => {
    const { world, manager } = await start();
    const egress = { allowInternetAccess: false, allowOut: ['192.0.2.7'], denyOut: ['198.51.100.0/24'] };
    const { id } = await manager.create({ ...request, egress });
    expect(manager.get(id).egress).toEqual(egress);
    const open = { allowInternetAccess: true, allowOut: [], denyOut: [] };
    expect((await manager.setEgress(id, open)).egress).toEqual(open);
    for (const wrong of ['example.org', '192.0.2.1/24', '::1', '0.0.0.0/33', '']) {
      expect(await codeOf(manager.setEgress(id, { ...open, denyOut: [wrong] })), wrong).toBe(
        'invalid_argument',
      );
    }
    expect(manager.get(id).egress).toEqual(open);
    expect(manager.access(id)).toEqual({ address: manager.get(id).address, accessToken: expect.any(String) });
    await manager.pause(id);
    expect(manager.access(id).address).toBeUndefined();
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('keeps running when a pause fails', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.disturb = async (operation) => {
      if (operation === 'pause') throw new WrennError('vmm_api_error', 'no');
    };
    expect(await codeOf(manager.pause(id))).toBe('vmm_api_error');
    expect(manager.get(id).state).toBe('running');
    expect(JSON.parse(world.journals.get(id) ?? '').state).toBe('running');
  });

  it('gives nobody the slot of a VMM that cannot be killed', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.disturb = async (operation) => {
      if (operation === 'kill') throw new WrennError('deadline_exceeded', 'It hangs in the kernel.');
    };
    expect(await codeOf(manager.destroy(id))).toBe('internal');
    expect(world.aliveVms()).toHaveLength(1);
    expect([...world.slots.values()]).toEqual(['up']);
    expect([...world.cgroups.keys()]).toEqual([id]);
    world.disturb = async () => {};
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('says what could not be taken away, keeps its journal, and tries only that again', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    let broken = true;
    world.disturb = async (operation) => {
      if (operation === 'release' && broken) throw new Error('nft is busy');
    };
    expect(await codeOf(manager.destroy(id))).toBe('internal');
    expect(manager.get(id)).toMatchObject({ state: 'failed' });
    expect(manager.get(id).reason).toContain('slot');
    expect(world.journals.has(id)).toBe(true);
    expect(world.aliveVms()).toEqual([]);
    expect(world.counted).toContain('cleanupFailed slot');
    broken = false;
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('keeps only so many failures', async () => {
    const checkpoint: Checkpoint = (step) => {
      if (step === 'boot') throw new WrennError('boot_timeout', 'no');
    };
    const { manager } = await start({ checkpoint, config: { limits: { keptFailures: 2 } } });
    for (let i = 0; i < 5; i++) await codeOf(manager.create(request));
    expect(manager.list().map(({ state }) => state)).toEqual(['failed', 'failed']);
  });
});

describe('limits', () => {
  it('refuse what the host cannot give', async () => {
    const { manager } = await start({ config: { limits: { maxSandboxes: 2 } } });
    const cases: [object, string][] = [
      [{ template: 'nope' }, 'template_not_found'],
      [{ template: '../etc' }, 'invalid_argument'],
      [{ vcpus: 5 }, 'vcpus_exceed_host'],
      [{ memoryMib: 16 }, 'invalid_argument'],
      [{ memoryMib: 8192 }, 'memory_exceeds_host'],
      [{ diskMib: 1 }, 'invalid_argument'],
      [{ metadata: { a: '\0' } }, 'invalid_argument'],
      [{ envs: { 'a=b': '' } }, 'invalid_argument'],
      [{ timeoutMs: 0 }, 'invalid_argument'],
    ];
    for (const [change, code] of cases) {
      expect(await codeOf(manager.create({ ...request, ...change })), JSON.stringify(change)).toBe(code);
    }
    await manager.create(request);
    await manager.create(request);
    expect(await codeOf(manager.create(request))).toBe('too_many_sandboxes');
    expect(manager.list()).toHaveLength(2);
  });

  it('refuse to promise more memory than configured', async () => {
    const config = { limits: { memoryOvercommitRatio: 1, memoryReserveMib: 0 } };
    const { manager } = await start({ config });
    await manager.create({ ...request, memoryMib: 8000 });
    expect(await codeOf(manager.create(request))).toBe('memory_exhausted');
  });
});
