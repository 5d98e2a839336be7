/** One version of the SDK, pointed at the server by environment variables alone, as a program's would be. */

import { trust } from './names.ts';
import {
  createRecorder,
  nameOf,
  type Recorder,
  type Sandbox,
  type SandboxOptions,
  type SdkModule,
  type Version,
} from './sdks.ts';
import { DOMAIN, type SdkServer } from './server.ts';

export interface Context {
  readonly sdk: SdkModule;
  readonly version: Version;
  readonly isNewest: boolean;
  readonly recorder: Recorder;
  /** Whether it has this method, as `Sandbox.create` or `files#read`. */
  has(name: string): boolean;
  readonly server: SdkServer;
  /** One that all cases share, and that none pauses or kills. */
  readonly sandbox: Sandbox;
  /** One of a case's own, killed in the end where it did not do that. */
  create(options?: SandboxOptions): Promise<Sandbox>;
  /** As made by other means. */
  adopt<T extends Sandbox>(sandbox: T): T;
  /** For a URL that the SDK made: one without the sandbox in its host's name needs headers. */
  request(url: string | URL, init?: RequestInit): Promise<Response>;
  open(server: SdkServer): Promise<void>;
  close(): Promise<void>;
}

const SETTINGS = ['E2B_API_URL', 'E2B_SANDBOX_URL', 'E2B_API_KEY', 'E2B_DOMAIN'] as const;
export const TEMPLATE = 'base';

/** What the server prints for shells, or what it says where names lead to it. Returns how to undo it. */
export function useSettings(reaches: Version['reaches'], { url, key, domain }: SdkServer): () => void {
  const forget = (): void => {
    for (const name of SETTINGS) delete process.env[name];
  };
  forget();
  const where = reaches === 'url' ? { E2B_API_URL: url, E2B_SANDBOX_URL: url } : { E2B_DOMAIN: domain };
  Object.assign(process.env, where, { E2B_API_KEY: key });
  return forget;
}

export async function createContext(version: Version): Promise<Context> {
  const sdk = (await version.load()) as SdkModule;
  const recorder = createRecorder();
  const { files, commands, pty, git } = new sdk.Sandbox({
    sandboxId: 'none',
    envdVersion: '0.6.4',
    apiKey: 'e2b_00',
    domain: DOMAIN,
  }) as Partial<Sandbox>;
  const parts = { files, commands, pty, git, sandboxes: sdk.Sandbox.list({ apiKey: 'e2b_00' }) };
  for (const [name, part] of Object.entries(parts)) if (part !== undefined) recorder.watch(name, part);
  const classes = { Sandbox: sdk.Sandbox, Volume: sdk.Volume, Secret: sdk.Secret };
  for (const [name, each] of Object.entries(classes)) {
    if (each === undefined) continue;
    recorder.watch(name, each);
    recorder.watch(name, Object.create(each.prototype) as object);
  }
  if (sdk.Template !== undefined) recorder.watch('Template', sdk.Template);
  if (recorder.has('Sandbox.listSnapshots'))
    recorder.watch('snapshots', sdk.Sandbox.listSnapshots({ apiKey: 'e2b_00' }));

  const made = new Set<Sandbox>();
  const undo: (() => void)[] = [];
  let opened: { readonly server: SdkServer; readonly sandbox: Sandbox } | undefined;
  const use = () => {
    if (opened === undefined) throw new Error('the context is not open');
    return opened;
  };
  const adopt = <T extends Sandbox>(sandbox: T): T => {
    made.add(sandbox);
    return sandbox;
  };
  const create = async (options: SandboxOptions = {}): Promise<Sandbox> =>
    adopt(await sdk.Sandbox.create(TEMPLATE, options));

  return {
    sdk,
    version,
    isNewest: !Number.isFinite(version.minor),
    recorder,
    has: recorder.has,
    get server() {
      return use().server;
    },
    get sandbox() {
      return use().sandbox;
    },
    create,
    adopt,
    request: (url, init = {}) => {
      const headers = { 'E2b-Sandbox-Id': use().sandbox.sandboxId, 'E2b-Sandbox-Port': '49983' };
      return fetch(url, version.reaches === 'url' ? { ...init, headers } : init);
    },
    open: async (server) => {
      undo.push(useSettings(version.reaches, server));
      if (version.reaches === 'domain') undo.push(trust(server.certificate));
      const sandbox = await create({
        metadata: { shared: nameOf(version) },
        envs: { GLOBAL: 'from create' },
      });
      opened = { server, sandbox };
      const handle = await sandbox.commands.run('true', { background: true });
      await handle.wait();
      recorder.watch('handle', handle);
      const watch = await sandbox.files.watchDir('/tmp', () => {});
      await watch.stop();
      recorder.watch('watch', watch);
    },
    close: async () => {
      await Promise.all([...made].map((sandbox) => sdk.Sandbox.kill(sandbox.sandboxId)));
      for (const each of undo.reverse()) each();
    },
  };
}
