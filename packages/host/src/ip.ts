/** Runs iproute2: many changes in one process, and what there is as parsed values. */
import { readdir } from 'node:fs/promises';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import { type runCommand as RunCommand, runCommand } from './command.ts';
import { hasErrno } from './errno.ts';
import { checkNetnsName, type IpCommand } from './ip-command.ts';
import { type Ipv4Range, parseIpv4, parseIpv4Range } from './ipv4.ts';

export const NETNS_DIR = '/run/netns';

const TIMEOUT_MS = 15_000;
/** A host with some thousand links prints a few MiB. */
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;

export interface Link {
  readonly name: string;
  readonly mtu: number;
  readonly alias: string | undefined;
}

export interface Route {
  /** Undefined for a default route. */
  readonly range: Ipv4Range | undefined;
  readonly link: string | undefined;
  /** `unicast`, `local`, `unreachable`, … */
  readonly type: string;
  readonly protocol: string;
  readonly metric: number;
}

export interface BatchOptions {
  /** The namespace in which the commands act; without it the caller's own. */
  readonly netns?: string;
  readonly signal?: AbortSignal | undefined;
}

export interface Ip {
  /** Runs the commands in order, and stops at the first that fails: those before it have happened. */
  batch(commands: readonly IpCommand[], options?: BatchOptions): Promise<void>;
  links(signal?: AbortSignal): Promise<Link[]>;
  /** Every IPv4 route of every table. */
  routes(signal?: AbortSignal): Promise<Route[]>;
  /** The names of all network namespaces that have one. */
  namespaces(): Promise<string[]>;
}

export function createIp(run: typeof RunCommand = runCommand): Ip {
  const list = async (args: readonly string[], signal: AbortSignal | undefined): Promise<unknown> => {
    const options = { timeoutMs: TIMEOUT_MS, maxOutputBytes: MAX_OUTPUT_BYTES, signal };
    const { stdout } = await run('ip', ['-json', ...args], options);
    return stdout.trim() === '' ? [] : parseJson(stdout);
  };
  return {
    batch: async (commands, { netns, signal } = {}) => {
      if (commands.length === 0) return;
      const where = netns === undefined ? [] : ['-netns', checkNetnsName(netns)];
      const input = commands.map(({ words }) => `${words.join(' ')}\n`).join('');
      await run('ip', [...where, '-batch', '-'], { timeoutMs: TIMEOUT_MS, input, signal });
    },
    links: async (signal) => parse(linksSchema, await list(['link', 'show'], signal)),
    routes: async (signal) =>
      parse(routesSchema, await list(['-4', 'route', 'show', 'table', 'all'], signal)),
    namespaces: async () => {
      try {
        return await readdir(NETNS_DIR);
      } catch (error) {
        // The directory comes with the first namespace.
        if (hasErrno(error, 'ENOENT')) return [];
        throw error;
      }
    },
  };
}

const linksSchema = z
  // `ip -json` prints an empty object for what its filters left out.
  .array(z.object({ ifname: z.string(), mtu: z.int(), ifalias: z.string() }).partial())
  .transform((links) =>
    links.flatMap(({ ifname, mtu, ifalias }): Link[] =>
      ifname === undefined || mtu === undefined ? [] : [{ name: ifname, mtu, alias: ifalias }],
    ),
  );

const routesSchema = z.array(
  z
    .object({
      dst: z.string(),
      dev: z.string().optional(),
      type: z.string().default('unicast'),
      protocol: z.string().default('boot'),
      metric: z.int().default(0),
    })
    .transform(
      ({ dst, dev, type, protocol, metric }): Route => ({
        range: dst === 'default' ? undefined : parseDestination(dst),
        link: dev,
        type,
        protocol,
        metric,
      }),
    ),
);

function parseDestination(text: string): Ipv4Range {
  return text.includes('/') ? parseIpv4Range(text) : { address: parseIpv4(text), prefixLength: 32 };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new WrennError('internal', 'ip printed what is not JSON.', { cause });
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new WrennError('internal', 'ip printed what Wrenn does not understand.', { cause: parsed.error });
}
