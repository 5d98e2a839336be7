/** Making, finding, pausing and killing sandboxes. */
import { expect, it } from 'vitest';
import { type Context, TEMPLATE } from './context.ts';
import { nameOf, type Sandbox, type SandboxOptions } from './sdks.ts';

const NEVER = 'zzzzzzzzzzzzzzzzzzzz';
const idsOf = (found: readonly { readonly sandboxId: string }[]): string[] =>
  found.map(({ sandboxId }) => sandboxId);

export function lifecycleCases(context: Context): void {
  it('are made with options, and described', async () => {
    const { isNewest, sdk } = context;
    const metadata = { who: 'ä = & % +', case: nameOf(context.version) };
    const before = Date.now();
    const options: SandboxOptions = {
      timeoutMs: 120_000,
      metadata,
      envs: { GIVEN: 'yes' },
      secure: true,
      allowInternetAccess: false,
      ...(isNewest
        ? {
            network: { denyOut: ['10.9.0.0/16'], allowOut: ['10.9.1.1'], allowPublicTraffic: false },
            lifecycle: { onTimeout: 'pause', autoResume: true },
          }
        : {}),
    };
    const sandbox = await context.create(options);
    const info = await sandbox.getInfo();
    expect(info).toMatchObject({
      sandboxId: sandbox.sandboxId,
      templateId: TEMPLATE,
      metadata,
      state: 'running',
    });
    expect(info.startedAt.getTime()).toBeGreaterThan(before - 2000);
    const livesMs = info.endAt.getTime() - info.startedAt.getTime();
    expect(livesMs).toBeGreaterThan(118_000);
    expect(livesMs).toBeLessThan(125_000);
    expect([info.cpuCount > 0, info.memoryMB > 0, /^\d+\.\d+\.\d+$/.test(info.envdVersion)]).toEqual([
      true,
      true,
      true,
    ]);
    expect((await sandbox.commands.run('echo $GIVEN')).stdout).toBe('yes\n');
    if (isNewest) {
      expect(info).toMatchObject({
        allowInternetAccess: false,
        network: { denyOut: ['10.9.0.0/16'], allowOut: ['10.9.1.1'], allowPublicTraffic: false },
        lifecycle: { onTimeout: 'pause', autoResume: true },
        volumeMounts: [],
      });
      expect(sandbox.trafficAccessToken).toMatch(/^[0-9a-f]{16,}$/);
    }
    expect(await sdk.Sandbox.getInfo(sandbox.sandboxId)).toMatchObject({ metadata });
    expect(await sdk.Sandbox.getFullInfo(sandbox.sandboxId)).toMatchObject({ metadata });
    expect(sandbox.getHost(8080)).toBe(`8080-${sandbox.sandboxId}.${context.server.domain}`);
    const killed = await sandbox.kill();
    if (context.version.minor > 25) expect(killed).toBe(true);
    expect(await sdk.Sandbox.kill(sandbox.sandboxId)).toBe(false);
  });

  it('are listed by metadata and state, in pages', async () => {
    const { sdk, sandbox } = context;
    const mark = { group: `${nameOf(context.version)}/ä&b=c%20+` };
    const first = await context.create({ metadata: mark });
    const second = await context.create({ metadata: { ...mark, more: 'x' } });
    const newestFirst = [second.sandboxId, first.sandboxId];
    const page = sdk.Sandbox.list({ query: { metadata: mark }, limit: 1 });
    expect([page.hasNext, page.nextToken]).toEqual([true, undefined]);
    const paged = [...(await page.nextItems()), ...(await page.nextItems())];
    expect(page.hasNext).toBe(false);
    expect(idsOf(paged)).toEqual(newestFirst);
    await expect(page.nextItems()).rejects.toThrow('No more items');
    const find = async (query: object) => idsOf(await sdk.Sandbox.list({ query }).nextItems());
    expect(await find({ metadata: { ...mark, more: 'x' } })).toEqual([second.sandboxId]);
    expect(await find({ metadata: { group: 'none' } })).toEqual([]);
    const all = await find({});
    expect(all).toEqual(expect.arrayContaining([...newestFirst, sandbox.sandboxId]));
    await pause(context, first);
    expect(await find({ metadata: mark, state: ['paused'] })).toEqual([first.sandboxId]);
    expect(await find({ metadata: mark, state: ['running'] })).toEqual([second.sandboxId]);
    expect(await find({ metadata: mark, state: ['running', 'paused'] })).toEqual(newestFirst);
    if (context.isNewest) {
      const list = async (options: object) => idsOf(await sdk.Sandbox.list(options).nextItems());
      const { startedAt } = await second.getInfo();
      expect(await list({ query: { metadata: mark }, order: 'asc' })).toEqual(newestFirst.toReversed());
      expect(await list({ query: { metadata: mark, startedAfter: startedAt } })).toEqual([second.sandboxId]);
      expect(await list({ query: { metadata: mark, template: TEMPLATE } })).toEqual(newestFirst);
      expect(await list({ query: { metadata: mark, template: 'minimal' } })).toEqual([]);
    }
    await Promise.all([first, second].map(({ sandboxId }) => sdk.Sandbox.kill(sandboxId)));
    expect(await find({ metadata: mark })).toEqual([]);
  });

  it('pause with all that is in their memory, and wake where somebody connects', async () => {
    const { sdk } = context;
    const sandbox = await context.create({ timeoutMs: 60_000 });
    const command = await sandbox.commands.run('read line; echo "$line again"', {
      background: true,
      stdin: true,
    });
    await command.disconnect();
    expect(await sandbox.isRunning()).toBe(true);
    expect(await pause(context, sandbox)).toBe(true);
    expect(await pause(context, sandbox)).toBe(false);
    expect(await sandbox.isRunning()).toBe(false);
    expect((await sandbox.getInfo()).state).toBe('paused');
    await expect(sandbox.commands.run('true')).rejects.toThrow();
    await expect(sandbox.files.read('/etc/hostname')).rejects.toBeInstanceOf(sdk.TimeoutError);

    const again = await sdk.Sandbox.connect(sandbox.sandboxId, { timeoutMs: 90_000 });
    expect(await again.isRunning()).toBe(true);
    const info = await again.getInfo();
    expect(info.state).toBe('running');
    expect(info.endAt.getTime() - Date.now()).toBeGreaterThan(80_000);
    const connected = await again.commands.connect(command.pid);
    await again.commands.sendStdin(command.pid, 'hello\n');
    expect((await connected.wait()).stdout).toBe('hello again\n');
    // The one from before goes on working, too.
    expect((await sandbox.commands.run('echo same')).stdout).toBe('same\n');
    const before = Date.now();
    const clock = Number((await sandbox.commands.run('date +%s')).stdout) * 1000;
    expect(clock).toBeGreaterThan(before - 4000);
    expect(clock).toBeLessThan(Date.now() + 4000);

    if (context.has('Sandbox.pause')) expect(await sdk.Sandbox.pause(sandbox.sandboxId)).toBe(true);
    else expect(await sdk.Sandbox.betaPause(sandbox.sandboxId)).toBe(true);
    expect(await sdk.Sandbox.betaPause(sandbox.sandboxId)).toBe(false);
    await sandbox.connect();
    expect(await sandbox.isRunning()).toBe(true);
    expect(await sandbox.betaPause()).toBe(true);
    await sandbox.kill();
  });

  it('pause when their time is over, where they were told to', async () => {
    const { sdk } = context;
    // The newest's has as long again once it is awake, in which a command must fit.
    const sandbox = await createAutoPaused(context, context.isNewest ? 8_000 : 1500);
    const stateOf = async () => (await sdk.Sandbox.getInfo(sandbox.sandboxId)).state;
    await expect.poll(stateOf, { timeout: 40_000, interval: 200 }).toBe('paused');
    if (context.isNewest) {
      // With autoResume: whoever asks it anything wakes it.
      expect((await sandbox.commands.run('echo awake', { timeoutMs: 20_000 })).stdout).toBe('awake\n');
    } else {
      await sdk.Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 });
      expect((await sandbox.commands.run('echo awake')).stdout).toBe('awake\n');
    }
    await sdk.Sandbox.kill(sandbox.sandboxId);
  });

  it('end when their time is over, and say so to whoever listens', async () => {
    const { sdk } = context;
    const sandbox = await context.create({ timeoutMs: 60_000 });
    const endless = await sandbox.commands.run('sleep 100', { background: true });
    const asked = Date.now();
    await sdk.Sandbox.setTimeout(sandbox.sandboxId, 30_000);
    const { endAt } = await sandbox.getInfo();
    expect(endAt.getTime()).toBeGreaterThan(asked + 26_000);
    expect(endAt.getTime()).toBeLessThan(Date.now() + 34_000);
    await sandbox.setTimeout(1000);
    const end = endless.wait();
    if (context.isNewest) await expect(end).rejects.toBeInstanceOf(sdk.TimeoutError);
    else await expect(end).rejects.toThrow();
    await expect.poll(() => sandbox.isRunning(), { timeout: 20_000 }).toBe(false);
    await expect(sandbox.getInfo()).rejects.toThrow(/not found/);
  });

  it('tell what they use', async () => {
    const { sandbox, sdk } = context;
    const points = await sandbox.getMetrics();
    expect(points.length).toBeGreaterThan(0);
    const [{ timestamp, ...figures } = { timestamp: new Date(0) }] = points;
    expect(Math.abs(timestamp.getTime() - Date.now())).toBeLessThan(600_000);
    expect(figures).toMatchObject({
      cpuCount: 1,
      memTotal: expect.any(Number),
      diskTotal: expect.any(Number),
    });
    const { sandboxId } = sandbox;
    expect((await sdk.Sandbox.getMetrics(sandboxId)).length).toBeGreaterThan(0);
    if (!context.isNewest) return;
    const ended = { start: new Date(Date.now() - 60_000_000), end: new Date(Date.now() - 50_000_000) };
    expect(await sdk.Sandbox.getMetrics(sandboxId, ended)).toEqual([]);
  });

  it('are refused with the right errors', async () => {
    const { sdk } = context;
    const { minor } = context.version;
    const { Sandbox } = sdk;
    // Older ones knew fewer errors by a class.
    const missing = sdk.SandboxNotFoundError ?? sdk.SandboxError;
    const anyMissing = minor > 25 ? missing : sdk.SandboxError;
    await expect(Sandbox.connect(NEVER)).rejects.toBeInstanceOf(sdk.NotFoundError);
    await expect(Sandbox.getInfo(NEVER)).rejects.toBeInstanceOf(missing);
    await expect(Sandbox.setTimeout(NEVER, 1000)).rejects.toBeInstanceOf(missing);
    await expect(Sandbox.betaPause(NEVER)).rejects.toBeInstanceOf(sdk.NotFoundError);
    await expect(Sandbox.getMetrics(NEVER)).rejects.toBeInstanceOf(anyMissing);
    expect(await Sandbox.kill(NEVER)).toBe(false);
    await expect(Sandbox.create('no-such-template')).rejects.toThrow(/404.*no-such-template/);
    const wrong = Sandbox.list({ apiKey: `e2b_${'0'.repeat(40)}` }).nextItems();
    await expect(wrong).rejects.toBeInstanceOf(minor > 0 ? sdk.AuthenticationError : sdk.SandboxError);
    await expect(Sandbox.create(TEMPLATE, { timeoutMs: 10 ** 12 })).rejects.toThrow(/400.*timeout/);
    if (!context.isNewest) return;
    await expect(Sandbox.updateNetwork(NEVER, {})).rejects.toBeInstanceOf(missing);
    await expect(Sandbox.create(TEMPLATE, { volumeMounts: { '/data': 'one' } })).rejects.toThrow(
      /400.*volumeMounts/,
    );
    await expect(
      Sandbox.create(TEMPLATE, { iam: { tokens: { a: { audience: 'b', tokenType: 'c' } } } }),
    ).rejects.toThrow(/400.*iam/);
  });
}

/** As the version has it. */
async function pause({ has }: Context, sandbox: Sandbox): Promise<boolean> {
  return has('Sandbox#pause') ? await sandbox.pause() : await sandbox.betaPause();
}

async function createAutoPaused(context: Context, timeoutMs: number): Promise<Sandbox> {
  const { sdk } = context;
  if (context.has('Sandbox.betaCreate')) {
    const { betaCreate } = sdk.Sandbox as unknown as {
      betaCreate(template: string, options: SandboxOptions & { autoPause: boolean }): Promise<Sandbox>;
    };
    return context.adopt(await betaCreate.call(sdk.Sandbox, TEMPLATE, { autoPause: true, timeoutMs }));
  }
  const autoResume = context.isNewest;
  return await context.create({ timeoutMs, lifecycle: { onTimeout: 'pause', autoResume } });
}
