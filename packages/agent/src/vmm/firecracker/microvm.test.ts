import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive } from '@wrenn/host';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { FILE_LIMIT_BYTES } from '../output.ts';
import { bundleFake, type FakeBuilder } from './fixtures/build-fake.ts';
import { createHarness, type Harness, never } from './fixtures/harness.ts';

// Each test starts a process, which takes its time on a loaded machine.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

let fakes: FakeBuilder;
let box: Harness;

beforeAll(async () => {
  fakes = await bundleFake();
});
beforeEach(() => {
  box = createHarness(fakes);
});
afterEach(() => box.dispose());

describe('a running microVM', () => {
  it('runs a machine: status, pause, resume, console, diagnosis, kill', async () => {
    const microvm = await box.launch({ console: 'Linux version 6.1\r\nwrenn-init: started\r\n' });
    expect(await microvm.status(never)).toBe('running');
    await microvm.pause(never);
    expect(await microvm.status(never)).toBe('paused');
    await microvm.resume(never);
    expect(await microvm.status(never)).toBe('running');
    await expect.poll(() => microvm.consoleTail(1)).toEqual(['wrenn-init: started']);
    // What it has logged last is read a moment later.
    await expect.poll(() => microvm.diagnose(never)).toContain('a PUT /actions request.');
    const diagnosis = await microvm.diagnose(never);
    expect(diagnosis).toContain('Firecracker 1.16.1 says: Running');
    expect(diagnosis).toContain('Linux version 6.1');

    await Promise.all([microvm.kill(), microvm.kill()]);
    await microvm.kill();
    const reason = await microvm.exited;
    expect(reason.message).toBe('Firecracker was killed by SIGKILL.');
    expect(reason.log.length).toBeLessThanOrEqual(20);
    expect(reason.log.join('\n')).toContain('The API server received');
    expect(readdirSync(box.runDir).sort()).toEqual(['console.log', 'requests.jsonl', 'vmm.log']);
    await expect(microvm.status(never)).rejects.toMatchObject({ code: 'vmm_api_error' });
  });

  it('that dies is noticed at once, with the reason', async () => {
    const microvm = await box.launch();
    const killedAt = Date.now();
    process.kill(microvm.handle.pid, 'SIGKILL');
    expect((await microvm.exited).message).toBe('Firecracker was killed by SIGKILL.');
    expect(Date.now() - killedAt).toBeLessThan(8_000);
  });

  it('is adopted by the next agent, with its console, and then noticed and killed all the same', async () => {
    const first = await box.launch({ console: 'boot\nready\n' });
    await expect.poll(() => first.consoleTail(9)).toEqual(['boot', 'ready']);
    await expect.poll(() => statSync(join(box.runDir, 'console.log')).size).toBe(11);
    first.detach();
    expect(await isAlive(first.handle)).toBe(true);

    const second = await box.driver().adopt(JSON.parse(JSON.stringify(first.handle)), never);
    expect(await second.status(never)).toBe('running');
    expect(await second.consoleTail(9)).toEqual(['boot', 'ready']);
    await second.pause(never);
    expect(await second.status(never)).toBe('paused');
    second.detach();

    const third = await box.driver().adopt(first.handle, never);
    const killedAt = Date.now();
    process.kill(first.handle.pid, 'SIGKILL');
    const reason = await third.exited;
    expect(Date.now() - killedAt).toBeLessThan(8_000);
    expect(reason.message).toContain('an earlier agent started it');
    expect(reason.log.join('\n')).toContain('PATCH /vm');
    await third.kill();
    expect(box.warnings).toEqual([]);
  });

  it('that is gone, or whose pid is somebody else by now, is not adopted', async () => {
    const microvm = await box.launch();
    await microvm.kill();
    await expect(box.driver().adopt(microvm.handle, never)).rejects.toMatchObject({ code: 'vmm_died' });
    const impostor = { ...microvm.handle, pid: process.pid };
    await expect(box.driver().adopt(impostor, never)).rejects.toMatchObject({ code: 'vmm_died' });
  });

  it('is adopted even if its FIFOs are spoilt', async () => {
    const first = await box.launch();
    first.detach();
    rmSync(join(box.runDir, 'console.fifo'));
    writeFileSync(join(box.runDir, 'console.fifo'), 'not a FIFO');
    const second = await box.driver().adopt(first.handle, never);
    expect(await second.consoleTail(9)).toEqual([]);
    expect(box.warnings).toHaveLength(1);
    await second.kill();
  });

  it('that floods its console fills neither memory nor disk, and runs on without a reader', async () => {
    const microvm = await box.launch({ flood: true });
    await sleep(1_500);
    expect(await microvm.consoleTail(100_000)).not.toHaveLength(0);
    expect(statSync(join(box.runDir, 'console.log')).size).toBeLessThanOrEqual(FILE_LIMIT_BYTES);
    microvm.detach();
    await sleep(500);
    const adopted = await box.driver().adopt(microvm.handle, never);
    expect(await adopted.status(never)).toBe('running');
    await adopted.kill();
    expect(existsSync(join(box.runDir, 'console.fifo'))).toBe(false);
  });
});
