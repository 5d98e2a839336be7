/** Commands in guests that stand still, or say what they should not. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { afterEach, expect, it, vi } from 'vitest';
import type { EnvdClient } from '../envd-client/client.ts';
import { collect, type ExecInput, type ExecOutput, exec } from './exec.ts';
import { endEvent, startEvent } from './testing/fake-world.ts';

const TIMEOUTS = { guestRequestMs: 100, guestStallMs: 100 };
const COMMAND = { command: ['x'], envs: {}, stdin: false };
const never = new AbortController().signal;
afterEach(() => void vi.restoreAllMocks());

const late = () => new WrennError('deadline_exceeded', 'The guest agent did not answer in time.');

function leaseOf(envd: Partial<EnvdClient>, mayBeSilent: () => boolean) {
  const guest = { sendSignal: async () => {}, ...envd } as EnvdClient;
  return { envd: guest, signal: never, mayBeSilent, release: () => {} };
}

async function endOf(outputs: AsyncIterable<ExecOutput>): Promise<unknown> {
  try {
    return (await collect(outputs)).exit.exitCode;
  } catch (error) {
    return error instanceof WrennError ? error.code : error;
  }
}

// It would be asked for again and again without a turn for anything else: no test of this file would end.
it('a stream that ends like a wait that was too long ends, though its guest may be silent', async () => {
  async function* startProcess() {
    yield startEvent(5);
    await sleep(1);
    throw late();
  }
  const lease = leaseOf({ startProcess }, () => true);
  expect(await endOf(exec(lease, COMMAND, TIMEOUTS, never))).toBe('deadline_exceeded');
});

it('a guest is waited for while it may be silent, and no longer', async () => {
  async function* startProcess() {
    yield startEvent(5);
    await sleep(400);
    yield endEvent(0);
  }
  expect(
    await endOf(
      exec(
        leaseOf({ startProcess }, () => true),
        COMMAND,
        TIMEOUTS,
        never,
      ),
    ),
  ).toBe(0);
  const silent = leaseOf({ startProcess }, () => false);
  expect(await endOf(exec(silent, COMMAND, TIMEOUTS, never))).toBe('guest_unreachable');
});

it('a guest that may be silent is waited for before its first word as well, and no longer', async () => {
  async function* startProcess() {
    await sleep(400);
    yield startEvent(5);
    yield endEvent(0);
  }
  const still = leaseOf({ startProcess }, () => true);
  expect(await endOf(exec(still, COMMAND, TIMEOUTS, never))).toBe(0);
  const silent = leaseOf({ startProcess }, () => false);
  expect(await endOf(exec(silent, COMMAND, TIMEOUTS, never))).toBe('deadline_exceeded');
});

it('a command that is not heard of is given up when its time is over, though its guest stands still', async () => {
  async function* startProcess(_: unknown, signal: AbortSignal) {
    await sleep(60_000, undefined, { signal });
    yield startEvent(5);
  }
  const lease = leaseOf({ startProcess }, () => true);
  const request = { ...COMMAND, timeoutMs: 50 };
  expect(await endOf(exec(lease, request, TIMEOUTS, never))).toBe('deadline_exceeded');
});

it("a command's time is over in time, though the host's clock is set back meanwhile", async () => {
  const clock = vi.spyOn(Date, 'now');
  const over = new AbortController();
  async function* startProcess() {
    yield startEvent(5);
    clock.mockReturnValue(0);
    await sleep(3000, undefined, over).catch(() => {});
    yield endEvent(137);
  }
  const sendSignal = async () => over.abort();
  const lease = leaseOf({ startProcess, sendSignal }, () => true);
  const request = { ...COMMAND, timeoutMs: 50 };
  expect(await endOf(exec(lease, request, TIMEOUTS, never))).toBe('deadline_exceeded');
});

const size = { cols: 80, rows: 24 };

it.each<[string, ExecInput]>([
  ['a new size', { kind: 'resize', size }],
  ['a signal', { kind: 'signal', number: 15 }],
])('%s that a guest takes late ends its command only where it should have been quick', async (_, input) => {
  const ends: unknown[] = [];
  for (const isStill of [true, false]) {
    async function* startProcess(_: unknown, signal: AbortSignal) {
      yield startEvent(5);
      await sleep(100, undefined, { signal });
      yield endEvent(0);
    }
    async function* inputs() {
      yield input;
      await new Promise(() => {});
    }
    const answer = async () => {
      throw late();
    };
    const lease = leaseOf({ startProcess, resizeTerminal: answer, sendSignal: answer }, () => isStill);
    const timeouts = { ...TIMEOUTS, guestStallMs: 10_000 };
    ends.push(await endOf(exec(lease, { ...COMMAND, terminal: size }, timeouts, never, inputs())));
  }
  expect(ends).toEqual([0, 'deadline_exceeded']);
});

it('the end of the input is told until a guest that stands still has heard it', async () => {
  let told = 0;
  const over = new AbortController();
  async function* startProcess(_: unknown, signal: AbortSignal) {
    yield startEvent(5);
    await sleep(5000, undefined, { signal: AbortSignal.any([signal, over.signal]) }).catch(() => {});
    yield endEvent(0);
  }
  const closeStdin = async () => {
    await sleep(10);
    told += 1;
    if (told < 3) throw late();
    over.abort();
  };
  const lease = leaseOf({ startProcess, closeStdin }, () => true);
  async function* inputs(): AsyncGenerator<ExecInput> {
    yield { kind: 'closeStdin' };
  }
  expect(await endOf(exec(lease, { ...COMMAND, stdin: true }, TIMEOUTS, never, inputs()))).toBe(0);
  expect(told).toBe(3);
});

it('output that is kept costs no more for coming in the smallest pieces', async () => {
  const pieces = 300_000;
  async function* outputs(): AsyncGenerator<ExecOutput> {
    for (let i = 0; i < pieces; i++) yield { kind: 'stdout', bytes: Uint8Array.of(120) };
    for (let i = 0; i < pieces; i++) yield { kind: 'stderr', bytes: new Uint8Array(0) };
    yield { kind: 'exited', exitCode: 0, status: '' };
  }
  const { stdout, stderr } = await collect(outputs());
  expect([stdout.length, stderr.length]).toEqual([pieces, 0]);
});
