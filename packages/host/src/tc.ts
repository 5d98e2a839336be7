/** Runs traffic control, iproute2's `tc`: how much may leave by a link, and how fast. */
import { type runCommand as RunCommand, runCommand } from './command.ts';
import type { BatchOptions } from './ip.ts';
import { checkLinkName, checkNetnsName, checkWhole } from './ip-command.ts';

export interface TcCommand {
  readonly words: readonly string[];
}

/** A bucket of bytes: what is in it may leave at once, and it is filled again at the rate. */
export interface TokenBucketFilter {
  readonly bytesPerSecond: number;
  readonly bucketBytes: number;
  /** What may wait for its turn; whatever comes on top is dropped. */
  readonly queueBytes: number;
}

const TIMEOUT_MS = 15_000;
/** The kernel keeps both sizes in 32 bits. */
const SIZE_MAX_BYTES = 2 ** 32 - 1;

/** Limits what the link sends, as long as the link lives. */
export function addTokenBucketFilter(link: string, filter: TokenBucketFilter): TcCommand {
  const { bytesPerSecond, bucketBytes, queueBytes } = filter;
  // `bps` are bytes per second to tc.
  const rate = `${checkWhole('rate', bytesPerSecond, 1, Number.MAX_SAFE_INTEGER)}bps`;
  const sizes = [
    ...['burst', checkWhole('bucket', bucketBytes, 1, SIZE_MAX_BYTES)],
    ...['limit', checkWhole('queue', queueBytes, 1, SIZE_MAX_BYTES)],
  ];
  return { words: ['qdisc', 'add', 'dev', checkLinkName(link), 'root', 'tbf', 'rate', rate, ...sizes] };
}

export interface Tc {
  /** Runs the commands in order, and stops at the first that fails: those before it have happened. */
  batch(commands: readonly TcCommand[], options?: BatchOptions): Promise<void>;
}

export function createTc(run: typeof RunCommand = runCommand): Tc {
  return {
    batch: async (commands, { netns, signal } = {}) => {
      if (commands.length === 0) return;
      const where = netns === undefined ? [] : ['-netns', checkNetnsName(netns)];
      const input = commands.map(({ words }) => `${words.join(' ')}\n`).join('');
      await run('tc', [...where, '-batch', '-'], { timeoutMs: TIMEOUT_MS, input, signal });
    },
  };
}
