/** The driver with its real confinement: own user, own namespaces, and a real network namespace with a TAP. */
import { chownSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isAlive, runCommand } from '@wrenn/host';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { createFirecrackerDriver } from './driver.ts';
import { bundleFake, type FakeBuilder } from './fixtures/build-fake.ts';
import type { FakeConfig } from './fixtures/fake-firecracker.ts';
import { createHarness, type Harness, NOTHING_LEFT, never, TIMEOUTS } from './fixtures/harness.ts';

const UID = 1_900_090_001;
const NETNS = `wrfc${process.pid}`;

// Each test starts a process, which takes its time on a loaded machine.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

let fakes: FakeBuilder;
let box: Harness;

const ip = (...args: string[]) => runCommand('ip', args, { timeoutMs: 5_000 });

beforeAll(async () => {
  fakes = await bundleFake();
});
beforeEach(async () => {
  box = createHarness(fakes);
  chownSync(box.runDir, UID, UID);
  chownSync(join(box.dir, 'layer.img'), UID, UID);
  await ip('netns', 'add', NETNS);
});
afterEach(async () => {
  await box.dispose();
  await ip('netns', 'del', NETNS);
});

function confined(config: FakeConfig = {}) {
  // Writes the program; the driver it returns is the unconfined one.
  box.driver(config);
  return createFirecrackerDriver({
    binary: join(box.dir, 'firecracker'),
    jailer: 'none',
    timeouts: TIMEOUTS,
    onWarning: (message) => box.warnings.push(message),
  });
}

function confinedSpec() {
  const network = { netns: NETNS, tap: 'tap0', guestMac: '02:00:00:00:00:01' };
  return box.spec({ uid: UID, gid: UID, network });
}

describe('a confined microVM', () => {
  it('runs as its own user in namespaces of its own, and is adopted, paused and ended from outside', async () => {
    const driver = confined({ console: 'hello\n' });
    const first = await driver.launch(confinedSpec(), box.options());
    const { pid, wrappers } = first.handle;
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    expect(status).toMatch(new RegExp(`^Uid:\\s+${UID}\\s+${UID}\\s+${UID}\\s+${UID}$`, 'm'));
    expect(status).toMatch(/^CapEff:\s+0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    for (const kind of ['mnt', 'net', 'pid', 'ipc', 'uts']) {
      expect(readlinkSync(`/proc/${pid}/ns/${kind}`)).not.toBe(readlinkSync(`/proc/self/ns/${kind}`));
    }
    expect(statSync(`/proc/${pid}/ns/net`).ino).toBe(statSync(`/run/netns/${NETNS}`).ino);
    await expect.poll(() => first.consoleTail(1)).toEqual(['hello']);
    first.detach();

    const second = await driver.adopt(JSON.parse(JSON.stringify(first.handle)), never);
    await second.pause(never);
    expect(await second.status(never)).toBe('paused');
    await second.kill();
    expect((await second.exited).log.join('\n')).toContain('PATCH /vm');
    for (const left of [first.handle, ...wrappers]) expect(await isAlive(left)).toBe(false);
    expect(box.warnings).toEqual([]);
  });

  it('that dies is noticed at once', async () => {
    const microvm = await confined().launch(confinedSpec(), box.options());
    const killedAt = Date.now();
    process.kill(microvm.handle.pid, 'SIGKILL');
    expect((await microvm.exited).message).toBe('Firecracker was killed by SIGKILL.');
    expect(Date.now() - killedAt).toBeLessThan(8_000);
  });

  it('is refused a layer that is not its own, and then leaves nothing', async () => {
    chownSync(join(box.dir, 'layer.img'), 0, 0);
    await expect(confined().launch(confinedSpec(), box.options())).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: expect.stringMatching(/PUT \/drives\/layer.*EACCES/),
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('that ends at once tells its last words through the confinement', async () => {
    const driver = confined({ exitAtStart: { code: 1, says: 'no luck' } });
    await expect(driver.launch(confinedSpec(), box.options())).rejects.toMatchObject({
      code: 'vmm_died',
      message: expect.stringContaining('no luck'),
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });
});
