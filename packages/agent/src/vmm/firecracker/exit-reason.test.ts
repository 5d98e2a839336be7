import { describe, expect, it } from 'vitest';
import { describeEnd } from './exit-reason.ts';

/** As 1.16.1 ends when KVM cannot run its guest. */
const WORDS = [
  '[fc_vcpu 0:ERROR] Received KVM_EXIT_INTERNAL_ERROR signal',
  '[main:INFO] Vmm is stopping.',
  '[main:INFO] Killing vCPU threads',
  '[main:ERROR] RunWithApiError error: MicroVM stopped with an error: GenericError',
  'Error: RunWithApi(MicroVMStoppedWithError(GenericError))',
  '[main:ERROR] Firecracker exiting with error. exit_code=1',
];
const LOG = ['an early line', ...['PUT', 'GET'].map((method) => `[fc_api:INFO] ${method}`), ...WORDS];
const TOLD = LOG.slice(1).join(' | ');

it.each([
  [{ code: 1, signal: null }, `Firecracker ended with an error. Its last words: ${TOLD}`],
  [
    { code: null, signal: null },
    `Firecracker ended; an earlier agent started it, so how is not known. Its last words: ${TOLD}`,
  ],
  [{ code: 3, signal: null }, `Firecracker ended with code 3. Its last words: ${TOLD}`],
  [{ code: 0, signal: null }, 'Firecracker ended because the guest shut down, rebooted or panicked.'],
  [{ code: null, signal: 'SIGKILL' as const }, 'Firecracker was killed by SIGKILL.'],
  [{ code: 137, signal: null }, 'Firecracker was killed by SIGKILL.'],
])('%j is told with its last words where these alone tell why', (status, sentence) => {
  expect(describeEnd(status, LOG)).toBe(sentence);
});

describe('a triple fault of the guest', () => {
  const log = [
    ...LOG,
    '[id:fc_vcpu 0:ERROR] Unexpected exit reason on vcpu run: Shutdown',
    ...WORDS.slice(1),
  ];

  it.each([1, null])('is told as what it is, after the code %j', (code) => {
    expect(describeEnd({ code, signal: null }, log)).toMatch(/CPU of its guest shut down: .*triple fault/);
  });

  it('is not what killed it, nor the end of a life before', () => {
    expect(describeEnd({ code: 137, signal: null }, log)).toBe('Firecracker was killed by SIGKILL.');
    expect(describeEnd({ code: 1, signal: null }, [...log, ...LOG])).toContain(`Its last words: ${TOLD}`);
  });
});

it('what it said is bounded, and nothing is said to be so', () => {
  const status = { code: 1, signal: null };
  expect(describeEnd(status, [])).toBe('Firecracker ended with an error. It said nothing.');
  expect(describeEnd(status, ['x'.repeat(10_000)]).length).toBeLessThan(400);
});
