/** The options that several commands share, and what becomes of them. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { WrennError } from '@wrenn/protocol';
import {
  type CreateSandboxRequest,
  CreateSandboxRequestSchema,
  type NetworkPolicySchema,
  type RateLimitsSchema,
  TimeoutAction,
} from '@wrenn/protocol/agent';
import type { Command } from 'commander';
import { parseBytesPerSecond, parseCount, parseDurationMs, parseMemoryMib, parsePairs } from './values.ts';

export interface MachineOptions {
  readonly snapshot?: string;
  readonly template?: string;
  readonly cpus?: string;
  readonly memory?: string;
  readonly disk?: string;
  readonly env?: readonly string[];
  readonly netReceive?: string;
  readonly netTransmit?: string;
  readonly diskRate?: string;
  readonly diskIops?: string;
  readonly metadata?: readonly string[];
  readonly onTimeout?: string;
}

export interface NetworkOptions {
  /** False with `--no-internet`. */
  readonly internet?: boolean;
  readonly allowOut?: readonly string[];
  readonly denyOut?: readonly string[];
}

export interface ProcessOptions {
  readonly env?: readonly string[];
  readonly user?: string;
  readonly cwd?: string;
  readonly timeout?: string;
  /** False with `--no-stdin`. */
  readonly stdin?: boolean;
  readonly tty?: boolean;
}

/** For an option that may be given several times. */
export function gather(value: string, earlier: readonly string[] | undefined): string[] {
  return [...(earlier ?? []), value];
}

export function withNetworkOptions(command: Command): Command {
  return command
    .option('--no-internet', 'nothing outside is reached, but for what --allow-out names')
    .option(
      '--allow-out <what>',
      'address, range or (with --no-internet) name of a host that stays open, as 192.0.2.0/24, example.com or *.example.com; may be repeated',
      gather,
    )
    .option('--deny-out <range>', 'IPv4 address or range that is closed; may be repeated', gather);
}

/** The rules that the options ask for, as a whole. */
export function networkOf(options: NetworkOptions): MessageInitShape<typeof NetworkPolicySchema> {
  const { internet, allowOut = [], denyOut = [] } = options;
  return { allowInternetAccess: internet !== false, allowOut: [...allowOut], denyOut: [...denyOut] };
}

export function withMachineOptions(command: Command): Command {
  return withNetworkOptions(command)
    .option('--template <name>', 'what to start from: a template or a build id (default: base)')
    .option('--cpus <n>', 'virtual CPUs')
    .option('--memory <size>', 'memory, as 512M or 2G')
    .option('--disk <size>', 'private disk, as 4G')
    .option('--net-receive <rate>', 'the most that the guest receives in a second, as 10M; 0 for no limit')
    .option('--net-transmit <rate>', 'the most that the guest sends in a second')
    .option('--disk-rate <rate>', 'the most that it reads and writes of a drive in a second')
    .option('--disk-iops <n>', 'how many reads and writes of a drive in a second')
    .option('--metadata <name=value>', 'a label to find the sandbox by; may be repeated', gather);
}

/** What a snapshot settles, and so cannot be asked for beside one. */
const OF_A_TEMPLATE = ['template', 'cpus', 'memory', 'disk'] as const;

/** The request that the options ask for; without a timeout the sandbox has no end. */
export function createRequest(
  options: MachineOptions & NetworkOptions,
  timeoutMs: number | undefined,
): CreateSandboxRequest {
  checkSnapshot(options);
  const request = create(CreateSandboxRequestSchema, {
    template: options.template ?? '',
    snapshotId: options.snapshot ?? '',
    envs: parsePairs(options.env ?? [], '--env'),
    metadata: parsePairs(options.metadata ?? [], '--metadata'),
    rateLimits: rateLimitsOf(options),
    network: networkOf(options),
    onTimeout: timeoutActionOf(options),
  });
  if (options.cpus !== undefined) request.vcpus = parseCount(options.cpus, '--cpus');
  if (options.memory !== undefined) request.memoryMib = parseMemoryMib(options.memory, '--memory');
  if (options.disk !== undefined) request.diskMib = parseMemoryMib(options.disk, '--disk');
  if (timeoutMs !== undefined) request.timeout = durationFromMs(timeoutMs);
  return request;
}

function timeoutActionOf({ onTimeout }: MachineOptions): TimeoutAction {
  if (onTimeout === undefined || onTimeout === 'destroy') return TimeoutAction.DESTROY;
  if (onTimeout === 'hibernate') return TimeoutAction.HIBERNATE;
  throw new WrennError('invalid_argument', '--on-timeout is `destroy` or `hibernate`.', {
    field: '--on-timeout',
  });
}

function checkSnapshot(options: MachineOptions): void {
  if (options.snapshot === undefined) return;
  if (options.snapshot === '') {
    throw new WrennError('invalid_argument', '--snapshot needs the id of a snapshot.', {
      field: '--snapshot',
      hint: '`wrenn snapshot ls` shows them.',
    });
  }
  const beside = OF_A_TEMPLATE.find((name) => options[name] !== undefined);
  if (beside === undefined) return;
  throw new WrennError('invalid_argument', `--${beside} and --snapshot exclude each other.`, {
    field: `--${beside}`,
    hint: 'A machine that is made from a snapshot has the template and the sizes of the one that was copied.',
  });
}

function rateLimitsOf(options: MachineOptions): MessageInitShape<typeof RateLimitsSchema> {
  const { netReceive, netTransmit, diskRate, diskIops } = options;
  const rate = (text: string, field: string) => BigInt(parseBytesPerSecond(text, field));
  const limits: MessageInitShape<typeof RateLimitsSchema> = {};
  if (netReceive !== undefined) limits.networkReceiveBytesPerSecond = rate(netReceive, '--net-receive');
  if (netTransmit !== undefined) limits.networkTransmitBytesPerSecond = rate(netTransmit, '--net-transmit');
  if (diskRate !== undefined) limits.diskBytesPerSecond = rate(diskRate, '--disk-rate');
  if (diskIops !== undefined) limits.diskOperationsPerSecond = BigInt(parseCount(diskIops, '--disk-iops'));
  return limits;
}

export function timeoutOf(options: { readonly timeout?: string }): number | undefined {
  return options.timeout === undefined ? undefined : parseDurationMs(options.timeout, '--timeout');
}
