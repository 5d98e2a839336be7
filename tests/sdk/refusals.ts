/** What Wrenn does not have yet says so, and is not taken for something else. */
import { expect, it } from 'vitest';
import type { Context } from './context.ts';

/** Of SDKs that have classes of their own for what is not found, and of those that have not. */
const REFUSAL = /404|not found/i;

export function refusalCases(context: Context): void {
  it.runIf(context.has('Sandbox#updateNetwork'))('network rules are replaced as a whole', async () => {
    const { sandbox, sdk } = context;
    await sandbox.updateNetwork({ denyOut: ['198.51.100.0/24'], allowOut: ['198.51.100.7'] });
    const network = async () => (await sandbox.getInfo()).network;
    if (context.isNewest) {
      expect(await network()).toMatchObject({ denyOut: ['198.51.100.0/24'], allowOut: ['198.51.100.7'] });
    }
    await sdk.Sandbox.updateNetwork(sandbox.sandboxId, { allowInternetAccess: false });
    const { stdout } = await sandbox.commands.run('curl -s -m 30 http://198.51.100.7/ ; echo $?');
    // Refused at once, and not lost on the way.
    expect(stdout).toBe('7\n');
    await sdk.Sandbox.updateNetwork(sandbox.sandboxId, {});
    if (context.isNewest) expect((await network())?.denyOut).toBeUndefined();
    await expect(sandbox.updateNetwork({ denyOut: ['no address'] })).rejects.toThrow(/400.*denyOut/);
  });

  it.runIf(context.has('Volume.list'))('volumes', async () => {
    const { Volume } = context.sdk;
    const asked = [
      () => Volume.create('one'),
      () => Volume.list(),
      () => Volume.connect('one'),
      () => Volume.getInfo('one'),
    ];
    for (const ask of asked) await expect(ask()).rejects.toThrow(REFUSAL);
    await expect(Volume.create('one')).rejects.toThrow('404: Wrenn does not support volumes.');
    expect(await Volume.destroy('one')).toBe(false);
  });

  it.runIf(context.has('Secret.list'))('secrets', async () => {
    const { Secret } = context.sdk;
    const asked = [
      () => Secret.create('one', 'x'),
      () => Secret.update('one', 'x'),
      () => Secret.getInfo('one'),
      () => Secret.list().nextItems(),
    ];
    for (const ask of asked) await expect(ask()).rejects.toThrow(REFUSAL);
    await expect(Secret.create('one', 'x')).rejects.toThrow('404: Wrenn does not support secrets.');
    expect([await Secret.exists('one'), await Secret.destroy('one')]).toEqual([false, false]);
    expect(Secret.fill('one')).toContain('one');
    expect(Secret.iamToken({ audience: 'a', tokenType: 'b' })).toEqual({ audience: 'a', tokenType: 'b' });
  });

  it.runIf(context.has('Sandbox#getMcpUrl'))('gateways for MCP', async () => {
    expect(context.sandbox.getMcpUrl()).toBe(`https://${context.sandbox.getHost(50005)}/mcp`);
    await expect(context.sdk.Sandbox.create({ mcp: { exa: { apiKey: 'x' } } })).rejects.toThrow(/40[04]/);
  });
}
