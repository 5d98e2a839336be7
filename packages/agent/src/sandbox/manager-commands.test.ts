import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { collect } from './exec.ts';
import { endEvent, startEvent } from './testing/fake-world.ts';
import { codeOf, never, request, start, until } from './testing/manager-harness.ts';

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
      const exec = { command: ['cat'], envs: {}, stdin: true, timeoutMs: 10_000 };
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
