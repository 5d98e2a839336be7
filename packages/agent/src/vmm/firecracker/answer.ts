/**
 * Turns an answer of Firecracker's API into data or into a WrennError. Pure: whatever the bytes are, the
 * outcome is one of the two, and what it shows of them is short and printable.
 */

import { WrennError } from '@wrenn/protocol';
import { printable } from '../printable.ts';
import { faultSchema } from './api-types.ts';

/** Largest answer that is read; the largest real one, GET /vm/config, is a few KiB. */
export const ANSWER_LIMIT_BYTES = 64 * 1024;

const SHOWN_CHARS = 400;

export interface Answer {
  readonly status: number;
  readonly body: Uint8Array;
}

/** The answer to a write: Firecracker says 204 and nothing else. */
export function expectEmpty(request: string, answer: Answer): void {
  if (answer.status !== 204) throw faultOf(request, answer);
}

/** The answer to a read: 200 and a JSON body, given to `parse`. */
export function expectJson<T>(
  request: string,
  answer: Answer,
  parse: (value: unknown) => { success: true; data: T } | { success: false; error: unknown },
): T {
  if (answer.status !== 200) throw faultOf(request, answer);
  const parsed = parse(parseJson(answer.body));
  if (parsed.success) return parsed.data;
  throw new WrennError('vmm_api_error', `Firecracker answered ${request} with something unexpected.`, {
    hint: WRONG_PROGRAM_HINT,
    cause: parsed.error,
  });
}

const WRONG_PROGRAM_HINT =
  'Is the configured program really Firecracker, in a version that docs/firecracker.md lists?';

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    return undefined;
  }
}

function faultOf(request: string, answer: Answer): WrennError {
  const fault = faultSchema.safeParse(parseJson(answer.body));
  if (!fault.success) {
    const text = printable(new TextDecoder().decode(answer.body.subarray(0, SHOWN_CHARS * 4)).trim());
    const said = text === '' ? 'and no reason' : `and "${text}"`;
    return new WrennError('vmm_api_error', `Firecracker answered ${request} with ${answer.status} ${said}.`, {
      hint: WRONG_PROGRAM_HINT,
    });
  }
  const reason = printable(fault.data.fault_message.trim());
  const hint = hintFor(fault.data.fault_message);
  return new WrennError(
    'vmm_api_error',
    `Firecracker refused ${request}: ${reason}${/[.!?]$/.test(reason) ? '' : '.'}`,
    hint === undefined ? {} : { hint },
  );
}

/** Faults whose cause is known from Firecracker's sources; first match wins. */
const KNOWN_FAULTS: readonly (readonly [RegExp, string])[] = [
  [/kvm/i, 'Firecracker needs /dev/kvm, which `wrenn doctor --probe` tries; the QEMU driver works without.'],
  [
    /kernel (file|image)|elf|vmlinux|loader/i,
    'The kernel must be an uncompressed ELF vmlinux that the VMM user can read; `wrenn setup` makes one.',
  ],
  [
    /initrd/i,
    'The initrd must be readable by the VMM user and fit into the guest memory; run `wrenn setup`.',
  ],
  [
    /\btap\b|network (config|device)/i,
    "The TAP must exist in the sandbox's network namespace, belong to the VMM user and be free.",
  ],
  [
    /block device|drive|backing file/i,
    'The image must exist and be readable (the layer also writable) by the VMM user.',
  ],
  [/memory/i, 'The host may be short of memory; ask for less with `--memory`.'],
  [
    /unknown field|missing field|invalid type|deserializ|request method/i,
    'This Firecracker does not know the request: use a version that docs/firecracker.md lists.',
  ],
];

function hintFor(fault: string): string | undefined {
  const text = fault.slice(0, 4096);
  return KNOWN_FAULTS.find(([pattern]) => pattern.test(text))?.[1];
}
