import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import { type Checkpoint, CREATE_STEPS } from './deps.ts';
import { collect } from './exec.ts';
import { createSandboxManager, type SandboxManager } from './manager.ts';
import {
  createFakeWorld,
  endEvent,
  type FakeWorld,
  type FakeWorldOptions,
  startEvent,
} from './testing/fake-world.ts';

const never = new AbortController().signal;

async function start(options: FakeWorldOptions = {}): Promise<{ world: FakeWorld; manager: SandboxManager }> {
  const world = createFakeWorld(options);
  const manager = createSandboxManager(world.deps);
  await manager.start(never);
  return { world, manager };
}

function expectNothingLeft(world: FakeWorld): void {
  expect(world.aliveVms()).toEqual([]);
  expect([...world.slots]).toEqual([]);
  expect([...world.layers]).toEqual([]);
  expect([...world.journals.keys()]).toEqual([]);
  expect(world.violations).toEqual([]);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'no error';
  } catch (error) {
    return error instanceof WrennError ? error.code : String(error);
  }
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 2000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not come about');
    await sleep(2);
  }
}

const request = { template: 'base', vcpus: 1, memoryMib: 256, diskMib: 128 };

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

describe('commands', () => {
  it('are killed when their caller leaves', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(42);
      await new Promise(() => {});
    };
    const caller = new AbortController();
    const outputs = manager.exec(id, { command: ['sleep'], envs: {}, stdin: false }, caller.signal);
    expect((await outputs.next()).value).toEqual({ kind: 'started', pid: 42 });
    // Nobody asks for the next output: the abort alone must do.
    caller.abort();
    await until(() => world.signalled.length === 1);
    expect(world.signalled).toEqual([{ pid: 42, signal: 9 }]);
    expect(await codeOf(outputs.next())).toBe('cancelled');
  });

  it('are killed when their caller leaves before they have started', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      await sleep(50);
      yield startEvent(43);
      await new Promise(() => {});
    };
    const caller = new AbortController();
    const first = codeOf(
      manager.exec(id, { command: ['sleep'], envs: {}, stdin: false }, caller.signal).next(),
    );
    await sleep(5);
    caller.abort();
    await until(() => world.signalled.length === 1);
    expect(world.signalled).toEqual([{ pid: 43, signal: 9 }]);
    await first;
  });

  it('are killed when they run too long', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(44);
      while (world.signalled.length === 0) await sleep(5);
      yield endEvent(137);
    };
    const work = collect(
      manager.exec(id, { command: ['sleep'], envs: {}, stdin: false, timeoutMs: 20 }, never),
    );
    expect(await codeOf(work)).toBe('deadline_exceeded');
  });

  it('get their input in order, joined, and then its end', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(45);
      while (world.inputs.at(-1)?.bytes.length !== 0) await sleep(1);
      yield endEvent(0);
    };
    async function* inputs() {
      for (let i = 0; i < 300; i++) yield { kind: 'stdin' as const, bytes: Uint8Array.of(i & 0xff) };
    }
    await collect(manager.exec(id, { command: ['cat'], envs: {}, stdin: true }, never, inputs()));
    const bytes = Buffer.concat(world.inputs.map((input) => input.bytes));
    expect([...bytes]).toEqual(Array.from({ length: 300 }, (_, i) => i & 0xff));
  });

  it('get the end of their input, whenever it comes', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(45);
      while (world.inputs.at(-1)?.bytes.length !== 0) await sleep(1);
      yield endEvent(0);
    };
    for (let turns = 0; turns < 40; turns++) {
      world.inputs.length = 0;
      async function* inputs() {
        yield { kind: 'stdin' as const, bytes: Uint8Array.of(1) };
        for (let i = 0; i < turns; i++) await Promise.resolve();
      }
      const exec = { command: ['cat'], envs: {}, stdin: true, timeoutMs: 2000 };
      await collect(manager.exec(id, exec, never, inputs()));
      expect(world.inputs.map(({ bytes }) => bytes.length)).toEqual([1, 0]);
    }
  });

  it('are killed when their input makes no sense', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(48);
      await new Promise(() => {});
    };
    async function* inputs() {
      yield { kind: 'signal' as const, number: 1000 };
    }
    const work = collect(manager.exec(id, { command: ['x'], envs: {}, stdin: true }, never, inputs()));
    expect(await codeOf(work)).toBe('invalid_argument');
    expect(world.signalled).toEqual([{ pid: 48, signal: 9 }]);
  });

  it('do not take more input than they read', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    let taken = 0;
    world.onExec = async function* () {
      yield startEvent(46);
      await new Promise(() => {});
    };
    world.disturb = (operation) => (operation === 'sendInput' ? new Promise(() => {}) : Promise.resolve());
    async function* inputs() {
      for (;;) {
        taken++;
        yield { kind: 'stdin' as const, bytes: new Uint8Array(64 * 1024) };
      }
    }
    const caller = new AbortController();
    const work = codeOf(
      collect(manager.exec(id, { command: ['sleep'], envs: {}, stdin: true }, caller.signal, inputs())),
    );
    await sleep(50);
    expect(taken).toBeLessThan(32);
    caller.abort();
    await work;
  });

  it('are limited in number for each sandbox', async () => {
    const { world, manager } = await start({ config: { limits: { maxStreamsPerSandbox: 2 } } });
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield startEvent(47);
      await new Promise(() => {});
    };
    const callers = [new AbortController(), new AbortController()];
    for (const { signal } of callers) {
      await manager.exec(id, { command: ['sleep'], envs: {}, stdin: false }, signal).next();
    }
    const third = () => manager.exec(id, { command: ['sleep'], envs: {}, stdin: false }, never).next();
    expect(await codeOf(third())).toBe('too_many_streams');
    for (const caller of callers) caller.abort();
    await until(() => world.signalled.length === 2);
    await sleep(5);
    expect(await codeOf(third())).toBe('no error');
  });

  it('are refused when nothing could run them', async () => {
    const { manager } = await start();
    const { id } = await manager.create(request);
    const bad = [
      { command: [] },
      { command: ['a\0b'] },
      { command: ['a'], envs: { 'A=B': 'c' } },
      { command: ['a'], envs: { A: '\0' } },
      { command: ['a'], user: 'a:b' },
      { command: ['a'], user: 'a\nb' },
      { command: ['a'], terminal: { cols: 70_000, rows: 1 } },
      { command: ['x'.repeat(2 * 1024 * 1024)] },
      { command: ['a'], timeoutMs: 0 },
    ];
    for (const one of bad) {
      const work = manager.exec(id, { envs: {}, stdin: false, ...one }, never).next();
      expect(await codeOf(work), JSON.stringify(one).slice(0, 80)).toBe('invalid_argument');
    }
  });
});

describe('what an earlier agent has left', () => {
  it('is adopted when it runs', async () => {
    const { world: before, manager: first } = await start();
    const running = await first.create({ ...request, metadata: { kept: 'yes' } });
    const paused = await first.create(request);
    await first.pause(paused.id);

    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.get(running.id)).toMatchObject({ state: 'running', metadata: { kept: 'yes' } });
    expect(manager.get(paused.id).state).toBe('paused');
    const { stdout } = await collect(
      manager.exec(running.id, { command: ['echo', 'again'], envs: {}, stdin: false }, never),
    );
    expect(stdout).toBe('again');
    await manager.destroy(running.id);
    await manager.destroy(paused.id);
    expectNothingLeft(world);
  });

  it('is what the VMM says, whatever the journal says', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    for (const vm of before.aliveVms()) vm.status = 'paused';
    before.killAgent();
    const { manager } = await start({ from: before });
    expect(manager.get(id).state).toBe('paused');
  });

  it('is lost when its VMM has died, and taken away when it was half made', async () => {
    const { world: before, manager: first } = await start();
    const dead = await first.create(request);
    const half = await first.create(request);
    before.killAgent();
    before.vms.get(dead.vmmPid ?? 0)?.die('kill -9');
    const text = before.journals.get(half.id) ?? '';
    before.journals.set(half.id, text.replace('"running"', '"creating"'));
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.get(dead.id)).toMatchObject({ state: 'failed' });
    expect(manager.get(half.id)).toMatchObject({
      state: 'failed',
      reason: 'The agent ended during the creation.',
    });
    expectNothingLeft(world);
  });

  it('is lost when the host was restarted', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    before.killAgent();
    for (const vm of before.aliveVms()) vm.die('power');
    before.slots.clear();
    before.killAgent();
    const { world, manager } = await start({ from: before, bootId: 'boot-2' });
    expect(manager.get(id)).toMatchObject({ state: 'failed', reason: 'The host was restarted.' });
    expectNothingLeft(world);
  });

  it('does not stop the agent when it is corrupt', async () => {
    const { world: before, manager: first } = await start();
    const good = await first.create(request);
    const bad = await first.create(request);
    before.killAgent();
    before.vms.get(bad.vmmPid ?? 0)?.die('kill -9');
    before.journals.set(bad.id, '{"version":1,"surprise":true}');
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.list().map(({ id }) => id)).toEqual([good.id]);
    expect(world.journals.has(bad.id)).toBe(false);
    expect(world.logged.some(({ message }) => message.includes('corrupt'))).toBe(true);
  });

  it('is destroyed when its time was up meanwhile', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    const record = JSON.parse(before.journals.get(id) ?? '');
    before.journals.set(id, JSON.stringify({ ...record, endsAtMs: Date.now() - 1000 }));
    before.killAgent();
    const { world, manager } = await start({ from: before });
    await until(() => manager.list().length === 0);
    expectNothingLeft(world);
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
