/**
 * nftables, spoken to in its JSON form: rules are values and not text, so nothing in them can become another
 * rule. One call is one transaction: all of it holds, or none.
 */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import { type CommandResult, type runCommand as RunCommand, runCommand } from './command.ts';
import { NETNS_DIR } from './ip.ts';
import { checkNetnsName } from './ip-command.ts';
import type { NftStatement, NftValue } from './nft-rule.ts';

const TIMEOUT_MS = 15_000;
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;
/** The kernel's limit for one argument is 128 KiB (MAX_ARG_STRLEN). */
const MAX_TRANSACTION_BYTES = 120 * 1024;
const NAME = /^[A-Za-z][A-Za-z0-9_]{0,30}$/;

export type NftFamily = 'inet' | 'arp';

export interface NftSet {
  readonly name: string;
  readonly type: 'ipv4_addr' | 'ifname';
  readonly interval: boolean;
  readonly elements: readonly NftValue[];
}

export interface NftRule {
  readonly statements: readonly NftStatement[];
  /** At most 128 bytes. */
  readonly comment?: string;
}

export interface NftChain {
  readonly name: string;
  readonly type: 'filter' | 'nat';
  readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  readonly priority: number;
  readonly policy: 'accept' | 'drop';
  readonly rules: readonly NftRule[];
}

export interface NftTable {
  readonly family: NftFamily;
  readonly name: string;
  readonly sets: readonly NftSet[];
  readonly chains: readonly NftChain[];
}

/** What of an existing table others read again. */
export interface NftTableListing {
  readonly comments: readonly string[];
  /** The elements of its sets that are plain names. */
  readonly sets: ReadonlyMap<string, readonly string[]>;
}

export interface NftBaseChain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly hook: string;
  readonly policy: string;
}

export interface NftOptions {
  /** The namespace in which the tables are; without it the caller's own. */
  readonly netns?: string;
  readonly signal?: AbortSignal | undefined;
}

export interface Nft {
  /** Makes the tables as described, in place of those with the same names, in one transaction. */
  replaceTables(tables: readonly NftTable[], options?: NftOptions): Promise<void>;
  /** The same for tables that must not exist yet; quicker, as the kernel waits for nobody to let go of old ones. */
  createTables(tables: readonly NftTable[], options?: NftOptions): Promise<void>;
  deleteTable(family: NftFamily, name: string, options?: NftOptions): Promise<void>;
  /** Undefined when there is none. */
  readTable(family: NftFamily, name: string, options?: NftOptions): Promise<NftTableListing | undefined>;
  /** The sets of every table that have this name, with the elements that are plain names. */
  setsNamed(name: string, options?: NftOptions): Promise<{ table: string; elements: readonly string[] }[]>;
  /** Every chain of every table that hangs at a hook. */
  baseChains(options?: NftOptions): Promise<NftBaseChain[]>;
}

export function createNft(run: typeof RunCommand = runCommand): Nft {
  const nft = (args: readonly string[], { netns, signal }: NftOptions) => {
    const limits = { timeoutMs: TIMEOUT_MS, maxOutputBytes: MAX_OUTPUT_BYTES, signal };
    if (netns === undefined) return run('nft', args, limits);
    const where = `--net=${NETNS_DIR}/${checkNetnsName(netns)}`;
    return run('nsenter', [where, 'nft', ...args], limits);
  };
  // As an argument: nft opens /dev/stdin for JSON, which fails as Node's pipes are sockets.
  const apply = async (commands: readonly object[], options: NftOptions): Promise<void> => {
    const transaction = JSON.stringify({ nftables: commands });
    if (Buffer.byteLength(transaction) > MAX_TRANSACTION_BYTES) {
      throw new WrennError('internal', 'A transaction for nft is too long.');
    }
    await nft(['-j', transaction], options);
  };
  const list = async (what: readonly string[], options: NftOptions) =>
    parseListing(await nft(['-j', 'list', ...what], options));

  return {
    replaceTables: (tables, options = {}) =>
      apply(
        tables.flatMap((table) => {
          const name = tableName(table.family, table.name);
          // Added first, so that the deletion finds one in any case.
          return [{ add: { table: name } }, { delete: { table: name } }, ...describe(table, 'add')];
        }),
        options,
      ),
    createTables: (tables, options = {}) =>
      apply(
        tables.flatMap((table) => describe(table, 'create')),
        options,
      ),
    deleteTable: (family, name, options = {}) =>
      apply([{ delete: { table: tableName(family, name) } }], options),
    readTable: async (family, name, options = {}) => {
      const table = tableName(family, name);
      const tables = await list(['tables'], options);
      if (!tables.some((item) => item.table?.family === family && item.table.name === name)) return undefined;
      const items = await list(['table', table.family, table.name], options);
      return {
        comments: items.flatMap(({ rule }) => (rule?.comment === undefined ? [] : [rule.comment])),
        sets: new Map(items.flatMap(({ set }) => (set === undefined ? [] : [[set.name, names(set.elem)]]))),
      };
    },
    setsNamed: async (name, options = {}) =>
      (await list(['sets'], options)).flatMap(({ set }) =>
        set?.name === name ? [{ table: set.table, elements: names(set.elem) }] : [],
      ),
    baseChains: async (options = {}) =>
      (await list(['chains'], options)).flatMap(({ chain }) =>
        chain?.hook === undefined || chain.policy === undefined
          ? []
          : [{ ...chain, hook: chain.hook, policy: chain.policy }],
      ),
  };
}

/** Sets come before the rules that name them. */
function describe(table: NftTable, verb: 'add' | 'create'): object[] {
  const { family } = table;
  const name = checkName(table.name);
  return [
    { [verb]: { table: tableName(family, name) } },
    ...table.sets.map((set) => ({
      add: {
        set: {
          family,
          table: name,
          name: checkName(set.name),
          type: set.type,
          ...(set.interval ? { flags: ['interval'] } : {}),
          ...(set.elements.length === 0 ? {} : { elem: set.elements }),
        },
      },
    })),
    ...table.chains.map(({ name: chain, type, hook, priority: prio, policy }) => ({
      add: { chain: { family, table: name, name: checkName(chain), type, hook, prio, policy } },
    })),
    ...table.chains.flatMap((chain) =>
      chain.rules.map(({ statements, comment }) => ({
        add: {
          rule: {
            family,
            table: name,
            chain: chain.name,
            expr: statements,
            ...(comment === undefined ? {} : { comment }),
          },
        },
      })),
    ),
  ];
}

function tableName(family: NftFamily, name: string): { family: NftFamily; name: string } {
  return { family, name: checkName(name) };
}

function checkName(name: string): string {
  if (NAME.test(name)) return name;
  throw new WrennError('invalid_argument', `${JSON.stringify(name.slice(0, 60))} is no name in nftables.`);
}

const listingSchema = z.object({
  nftables: z.array(
    z.object({
      table: z.object({ family: z.string(), name: z.string() }).optional(),
      chain: z
        .object({
          family: z.string(),
          table: z.string(),
          name: z.string(),
          hook: z.string().optional(),
          policy: z.string().optional(),
        })
        .optional(),
      set: z
        .object({ table: z.string(), name: z.string(), elem: z.array(z.unknown()).optional() })
        .optional(),
      rule: z.object({ comment: z.string().optional() }).optional(),
    }),
  ),
});

function parseListing({ stdout }: CommandResult): z.output<typeof listingSchema>['nftables'] {
  try {
    return listingSchema.parse(JSON.parse(stdout)).nftables;
  } catch (cause) {
    throw new WrennError('internal', 'nft printed what Wrenn does not understand.', { cause });
  }
}

function names(elements: readonly unknown[] | undefined): string[] {
  return (elements ?? []).filter((element) => typeof element === 'string');
}
