/** Slots in a real kernel: made, taken away, left behind, and failing at every step. */
import { access } from 'node:fs/promises';
import { addNetns, addVeth, setLink } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkForwarding } from './forwarding.ts';
import { createNetwork } from './network.ts';
import { createLab, HOST_PUBLIC, type Lab, type Run } from './testing/lab.ts';

const OWNER = { uid: 54_321, gid: 54_322 };
const signal = new AbortController().signal;

let lab: Lab;

beforeEach(async () => {
  lab = await createLab();
});

afterEach(() => lab.close());

async function started(config = lab.config, wrap?: (run: Run) => Run) {
  const network = createNetwork(config, lab.networkHost(wrap));
  await network.start(new Set(), signal);
  return network;
}

const slotTraces = async () =>
  (await lab.inventory()).filter((item) => /^(namespace|link)/.test(item) || / dev t/.test(item));

describe('a slot', () => {
  it('is a namespace with a TAP that its owner alone may open', async () => {
    const network = await started();
    const slot = await network.setUp(network.reserve(), OWNER, signal);
    expect(slot).toEqual(network.describe(slot.index));
    expect(slot).toMatchObject({
      index: 0,
      tap: 'tap0',
      address: '10.117.0.1',
      guestMac: '02:77:72:6e:00:15',
    });

    const shown = await lab.run('ip', ['-json', '-details', '-netns', slot.netns, 'link', 'show', 'tap0'], {
      timeoutMs: 5000,
    });
    expect(JSON.parse(shown.stdout)).toMatchObject([
      {
        address: '02:77:72:6e:00:16',
        flags: expect.arrayContaining(['UP']),
        linkinfo: {
          info_kind: 'tun',
          info_data: { type: 'tap', multi_queue: false, persist: true, user: 54_321, group: 54_322 },
        },
      },
    ]);
    // The uplink's MTU, so that nothing has to be fragmented on the way out.
    const link = (await lab.networkHost().ip.links()).find(({ name }) => name === slot.hostLink);
    expect(link?.mtu).toBe(1400);
  });

  it('is gone after its release, however often that is called, and everything is after stop', async () => {
    const network = await started();
    const indices = [network.reserve(), network.reserve(), network.reserve()];
    await Promise.all(indices.map((index) => network.setUp(index, OWNER, signal)));
    expect(await slotTraces()).toHaveLength(12);
    await network.stop();
    expect(await slotTraces(), 'stop leaves the slots that are in use').toHaveLength(12);

    await Promise.all(indices.flatMap((index) => [network.release(index), network.release(index)]));
    expect(await slotTraces()).toEqual([]);
    await network.stop();
    await network.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('of another owner is not torn down by a late second release', async () => {
    const network = await started({ ...lab.config, range: '10.117.0.0/31' });
    const first = network.reserve();
    await network.setUp(first, OWNER, signal);
    await network.release(first);
    const second = network.reserve();
    expect(second).toBe(first);
    await network.setUp(second, OWNER, signal);
    await network.release(second);
    expect(await slotTraces()).toEqual([]);
  });

  it('is not given out before its address has rested', async () => {
    const network = await started({ ...lab.config, range: '10.117.0.0/31', holdOffMs: 60_000 });
    await network.release(network.reserve());
    expect(() => network.reserve()).toThrow(expect.objectContaining({ code: 'network_slots_exhausted' }));
  });

  it('can be released when half of it is missing', async () => {
    const network = await started();
    const [a, b, c] = [network.reserve(), network.reserve(), network.reserve()];
    const slots = await Promise.all([a, b].map((index) => network.setUp(index, OWNER, signal)));
    await lab.run('ip', ['link', 'delete', slots[0]?.hostLink ?? ''], { timeoutMs: 5000 });
    await lab.run('ip', ['netns', 'delete', slots[1]?.netns ?? ''], { timeoutMs: 5000 });
    await Promise.all([a, b, c].map((index) => network.release(index)));
    expect(await slotTraces()).toEqual([]);
  });
});

describe('setting up a slot that fails', () => {
  /** The k-th program fails: before it has done anything, or after it has done all. */
  const failing =
    (armed: { at: number; count: number; when: 'before' | 'after' }) =>
    (run: Run): Run => {
      return async (program, args, options) => {
        armed.count += 1;
        const fails = armed.count === armed.at;
        const failure = new WrennError('command_failed', 'failed on purpose');
        if (fails && armed.when === 'before') throw failure;
        const result = await run(program, args, options);
        if (fails) throw failure;
        return result;
      };
    };

  it.each(['before', 'after'] as const)('%s any of its steps leaves nothing', async (when) => {
    const spec = { ...OWNER, rates: { receiveBytesPerSecond: 1_000_000 } };
    const armed = { at: 0, count: 0, when };
    const network = await started(lab.config, failing(armed));
    armed.count = 0;
    await network.release((await network.setUp(network.reserve(), spec, signal)).index);
    const steps = armed.count;
    expect(steps).toBeGreaterThanOrEqual(7);

    let failures = 0;
    for (let at = 1; at < steps; at += 1) {
      Object.assign(armed, { at, count: 0 });
      const index = network.reserve();
      await expect(network.setUp(index, spec, signal)).rejects.toThrow('failed on purpose');
      failures += 1;
      expect(await slotTraces(), `step ${at}`).toEqual([]);
      await network.release(index);
    }
    expect(failures).toBe(steps - 1);
    armed.at = 0;
    await network.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('because it was cancelled leaves nothing', async () => {
    const controller = new AbortController();
    let calls = 0;
    const network = await started(lab.config, (run) => (program, args, options) => {
      calls += 1;
      if (program === 'nsenter') controller.abort(new WrennError('cancelled', 'cancelled on purpose'));
      return run(program, args, options);
    });
    calls = 0;
    const index = network.reserve();
    await expect(network.setUp(index, OWNER, controller.signal)).rejects.toMatchObject({ code: 'cancelled' });
    expect(calls).toBeGreaterThan(2);
    expect(await slotTraces()).toEqual([]);
  });

  it('to be taken away stays taken, so that its index is not given out', async () => {
    let broken = false;
    const network = await started(
      { ...lab.config, range: '10.117.0.0/31' },
      (run) => (program, args, options) => {
        if (broken && args.includes('-batch')) throw new WrennError('command_failed', 'failed on purpose');
        return run(program, args, options);
      },
    );
    const index = network.reserve();
    await network.setUp(index, OWNER, signal);
    broken = true;
    await expect(network.release(index)).rejects.toMatchObject({ code: 'command_failed' });
    expect(() => network.reserve()).toThrow(expect.objectContaining({ code: 'network_slots_exhausted' }));
    broken = false;
    await network.release(index);
    expect(network.reserve()).toBe(index);
    expect(await slotTraces()).toEqual([]);
  });
});

describe('starting', () => {
  it('takes away what a dead agent left and keeps what is in use', async () => {
    const dead = await started();
    for (let count = 0; count < 3; count += 1) await dead.setUp(dead.reserve(), OWNER, signal);
    await lab.run('ip', ['link', 'delete', `${lab.config.prefix}-2`], { timeoutMs: 5000 });

    const network = createNetwork({ ...lab.config, holdOffMs: 60_000 }, lab.networkHost());
    expect(await network.start(new Set([1]), signal)).toEqual([0, 2]);
    expect(await slotTraces()).toEqual([
      `namespace ${lab.config.prefix}-1`,
      `link ${lab.config.prefix}-1`,
      expect.stringContaining(`10.117.0.2/31 dev ${lab.config.prefix}-1`),
      expect.stringContaining(`local 10.117.0.2 dev ${lab.config.prefix}-1`),
    ]);
    expect(network.reserve(), 'neither the one in use nor those that rest').toBe(3);
    await network.release(3);
    await network.release(1);
    await network.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('switches forwarding on for the uplink alone, and off again, even after a crash', async () => {
    expect(await lab.inventory()).toEqual([]);
    await started();
    expect(await lab.inventory()).toContain('forwarding eth0 1');
    const next = await started();
    const state = await lab.inventory();
    expect(state).toContain('forwarding eth0 1');
    expect(state.join()).not.toMatch(/lan0|forwarding all/);
    await next.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('leaves forwarding on for another agent that needs it', async () => {
    const first = await started();
    const second = await started({ ...lab.config, owner: '/tmp', prefix: 'tzz', range: '10.118.0.0/16' });
    await first.stop();
    expect((await lab.inventory()).filter((item) => item.startsWith('forwarding'))).toEqual([
      'forwarding eth0 1',
    ]);
    await second.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('refuses another range as long as there are sandboxes', async () => {
    const before = await started();
    const index = before.reserve();
    await before.setUp(index, OWNER, signal);
    const config = { ...lab.config, range: '10.201.0.0/24' };
    const network = createNetwork(config, lab.networkHost());
    await expect(network.start(new Set([index]), signal)).rejects.toMatchObject({
      code: 'network_conflict',
      message: expect.stringContaining('10.117.0.0/16'),
    });
    expect(await network.start(new Set(), signal)).toEqual([index]);
    expect((await lab.inventory()).filter((item) => item.startsWith('route'))).toEqual([
      expect.stringContaining('10.201.0.0/24'),
    ]);
    await network.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('leaves forwarding alone when told to, or when it is on already', async () => {
    await (await started({ ...lab.config, enableForwarding: false })).stop();
    const quiet = await started({ ...lab.config, enableForwarding: false });
    expect((await lab.inventory()).join()).not.toContain('forwarding');
    await quiet.stop();

    await lab.networkHost().sysctl.write(['ipv4', 'ip_forward'], '1');
    const network = await started();
    await network.stop();
    expect(await lab.inventory()).toEqual(['forwarding eth0 1', 'forwarding lan0 1', 'forwarding all 1']);
  });

  it('refuses a range that the machine uses, and names one that is free', async () => {
    await lab.run('ip', ['route', 'add', '10.96.0.0/11', 'dev', 'lan0'], { timeoutMs: 5000 });
    const network = createNetwork(lab.config, lab.networkHost());
    await expect(network.start(new Set(), signal)).rejects.toMatchObject({
      code: 'network_conflict',
      message: 'The range 10.117.0.0/16 overlaps with the route 10.96.0.0/11 (on lan0).',
      hint: expect.stringContaining('10.128.0.0/16'),
      field: 'network.range',
    });
    expect((await lab.inventory()).filter((item) => !item.includes('lan0'))).toEqual([]);
  });

  it("refuses an address of the machine's own", async () => {
    const network = createNetwork({ ...lab.config, range: '198.51.0.0/16' }, lab.networkHost());
    await expect(network.start(new Set(), signal)).rejects.toMatchObject({ code: 'network_conflict' });
    expect(HOST_PUBLIC).toMatch(/^198\.51\./);
  });

  it("refuses another agent's range and another agent's names", async () => {
    await started({ ...lab.config, owner: '/tmp' });
    const sameNames = createNetwork({ ...lab.config, range: '10.200.0.0/16' }, lab.networkHost());
    await expect(sameNames.start(new Set(), signal)).rejects.toMatchObject({
      code: 'network_conflict',
      message: expect.stringContaining('by the agent of /tmp'),
    });
    const sameRange = createNetwork({ ...lab.config, prefix: 'tzz' }, lab.networkHost());
    await expect(sameRange.start(new Set(), signal)).rejects.toMatchObject({
      code: 'network_conflict',
      message: expect.stringContaining('of another Wrenn agent'),
    });
  });

  it('takes over from an agent whose state directory is gone', async () => {
    const gone = await started({ ...lab.config, owner: '/nowhere/at/all' });
    await gone.setUp(gone.reserve(), OWNER, signal);
    const network = createNetwork(lab.config, lab.networkHost());
    expect(await network.start(new Set(), signal)).toEqual([0]);
    await network.stop();
    expect(await lab.inventory()).toEqual([]);
  });

  it('never touches links and namespaces that only look like its own', async () => {
    const name = `${lab.config.prefix}-7`;
    await lab.ip(lab.hostNetns, [addNetns(name)]);
    const network = createNetwork(lab.config, lab.networkHost());
    await expect(network.start(new Set(), signal)).rejects.toMatchObject({ field: 'network.prefix' });
    const foreign = { link: name, peer: 'x0', peerNetns: lab.worldNetns, mtu: 1500 };
    await lab.ip(lab.hostNetns, [addVeth(foreign), setLink(name, { alias: 'somebody', up: true })]);
    await expect(network.start(new Set(), signal)).rejects.toMatchObject({
      code: 'network_conflict',
      message: `The link ${name} does not belong to this agent.`,
    });
    expect(await slotTraces()).toEqual([`namespace ${name}`, `link ${name}`]);
    await access(`/run/netns/${name}`);
  });

  it('works again after the firewall was flushed by somebody', async () => {
    const first = await started();
    await first.setUp(first.reserve(), OWNER, signal);
    await lab.run('nft', ['flush', 'ruleset'], { timeoutMs: 5000 });
    const network = createNetwork(lab.config, lab.networkHost());
    expect(await network.start(new Set([0]), signal)).toEqual([]);
    await network.release(0);
    await network.stop();
    // Who had switched the uplink on was forgotten with the table.
    expect(await lab.inventory()).toEqual(['forwarding eth0 1']);
  });
});

it('the doctor sees a firewall that drops what guests send', async () => {
  const check = () => checkForwarding(lab.config, signal, lab.networkHost());
  const nft = (...words: string[]) => lab.run('nft', words, { timeoutMs: 5000 });
  expect(await check()).toEqual([]);
  await nft('add', 'table', 'ip', 'filter');
  await nft(
    'add',
    'chain',
    'ip',
    'filter',
    'FORWARD',
    '{ type filter hook forward priority 0; policy drop; }',
  );
  expect(await check()).toMatchObject([
    {
      code: 'firewall_drops',
      hint: expect.stringContaining(`iptables -I FORWARD -i ${lab.config.prefix}-+`),
    },
  ]);
});
