/** Gets packages of the host's own distribution, by the host's own apt. */
import { setTimeout as sleep } from 'node:timers/promises';
import { plainEnvironment, runCommand, runUnbroken } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

const APT_TIMEOUT_MS = 1_200_000;
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;
/** Fresh machines often install their updates just now. */
const OTHERS_TIMEOUT_S = 600;
const OTHERS_POLL_MS = 2_000;
const TOLD_MAX_CHARACTERS = 100;

export interface PackageOptions {
  /** Of Debian packages. */
  readonly names: readonly string[];
  /** The words that put a command under root; none for root. */
  readonly asRoot: readonly string[];
  readonly onProgress: (message: string) => void;
  readonly signal?: AbortSignal | undefined;
  /** For tests: where apt-get is, and how long another one is waited for. */
  readonly path?: string;
  readonly othersTimeoutS?: number;
  readonly othersPollMs?: number;
}

/**
 * What is fetched may be broken off at any time. What comes then may not: dpkg that is ended in the middle leaves a
 * machine on which nothing can be installed before somebody mends it by hand. Told to stop, this waits for it.
 */
export async function installPackages(options: PackageOptions): Promise<void> {
  const { names, asRoot, signal, othersTimeoutS = OTHERS_TIMEOUT_S } = options;
  const { PATH, ...environment } = plainEnvironment();
  const env = { ...environment, PATH: options.path ?? PATH ?? '', DEBIAN_FRONTEND: 'noninteractive' };
  const install = ['install', '--no-install-recommends'];
  // The time-out is for dpkg's lock alone; `patiently` is for those of the lists and the downloads.
  const words = (lockTimeoutS: number, ...args: string[]): [string, string[]] => {
    const options = ['-q', '-y', '-o', `DPkg::Lock::Timeout=${lockTimeoutS}`];
    const [program = 'apt-get', ...rest] = [...asRoot, 'apt-get', ...options, ...args];
    return [program, rest];
  };
  const say = (message: string) =>
    options.onProgress(signal?.aborted ? `${message} (stops after it)` : message);
  const onLine = (line: string) => {
    if (/^(Get:|Unpacking |Setting up |Waiting for cache lock)/.test(line))
      say(line.slice(0, TOLD_MAX_CHARACTERS));
  };
  const fetch = (...args: string[]) =>
    patiently(options, () =>
      runCommand(...words(othersTimeoutS, ...args), {
        timeoutMs: APT_TIMEOUT_MS,
        maxOutputBytes: MAX_OUTPUT_BYTES,
        signal,
        env,
        onLine,
      }),
    );
  say('fetching the package lists');
  await fetch('update');
  say(`fetching ${names.join(', ')}`);
  await fetch(...install, '--download-only', ...names);
  signal?.throwIfAborted();
  const onAbort = () => say('installing, which must not be broken off');
  say(`installing ${names.join(', ')}`);
  await patiently(options, async () => {
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      // As nothing breaks this apt off, it waits for no lock itself: `patiently` does, which a signal ends.
      const unbroken = words(0, ...install, '--no-download', ...names);
      await runUnbroken(...unbroken, { waitMs: APT_TIMEOUT_MS, env, onLine });
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  });
  if (signal?.aborted) {
    throw new WrennError('cancelled', 'Cancelled, after the packages were installed.', {
      cause: signal.reason,
    });
  }
}

/** Does it again for as long as another apt holds a lock that apt itself does not wait for. */
async function patiently(options: PackageOptions, work: () => Promise<unknown>): Promise<void> {
  const { signal, othersTimeoutS = OTHERS_TIMEOUT_S, othersPollMs = OTHERS_POLL_MS } = options;
  for (const deadline = performance.now() + othersTimeoutS * 1000; ; ) {
    try {
      await work();
      return;
    } catch (error) {
      const lock = lockInTheWay(error);
      if (lock === undefined || performance.now() >= deadline) throw error;
      options.onProgress(`waiting for another apt, which has ${lock}`);
    }
    await sleep(othersPollMs, undefined, { signal });
  }
}

function lockInTheWay(error: unknown): string | undefined {
  if (!(error instanceof WrennError) || error.code !== 'command_failed') return undefined;
  return /E: Could not get lock (\S+?)\.?\s/.exec(`${error.message} `)?.[1];
}
