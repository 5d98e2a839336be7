/** What the laboratory can run, by name. */
import { WrennError } from '@wrenn/protocol';

export interface Suite {
  /** Run in the checkout, in the machine. */
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** A person is at the terminal. */
  readonly interactive: boolean;
  /** Its report is that of tests: files that failed can be tried again. */
  readonly isTests: boolean;
  readonly needsFirecracker: boolean;
  /** What runs where it is needed and was not given: its cases are skipped. Absent: nothing can run. */
  readonly withoutFirecracker?: readonly string[];
}

export const USAGE = `usage: npm run lab -- [options] SUITE
  contract qemu-kvm [TEST…]      the driver contract, and sandboxes, with QEMU on KVM
  contract firecracker [TEST…]   the same with Firecracker (WRENN_FIRECRACKER, or in PATH; its jailer beside it)
  bench qemu-kvm|firecracker     creates, against the same VMM driven by hand
  shell                          a prompt in the machine
  run PROGRAM [ARGUMENT…]        any program in the machine
options, before the suite:
  --timeout-minutes N            for the suite; default 60
  --memory-mib N                 of the machine; default 4096
  --report FILE                  where to put the suite's JSON report
`;

const DRIVERS = ['qemu-kvm', 'firecracker'];
const BENCH_ROUNDS = '9';
/** Those in which the VMM plays a part. Killing and filling disks for minutes is for machines that are real. */
const SANDBOX_TESTS = [
  'agent-restart',
  'cgroups',
  'create-failures',
  'isolation',
  'kills',
  'rate-limits',
  'sandbox',
  'snapshots',
  'warm',
].map((name) => `tests/e2e/${name}.vm`);
/** Where a suite leaves its report, in the machine. */
const REPORT = '/run/report';

/** The command that runs files of tests, or those whose paths contain what is named. */
export function testsCommand(files: readonly string[]): readonly string[] {
  const reporters = ['--reporter=verbose', '--reporter=json', `--outputFile.json=${REPORT}`];
  return ['node', 'node_modules/vitest/vitest.mjs', 'run', '--project', 'lab', ...reporters, ...files];
}

/** Throws `invalid_argument` with the usage as its hint. */
export function parseSuite([name, ...args]: readonly string[]): Suite {
  const plain = { environment: {}, interactive: false, isTests: false, needsFirecracker: false };
  if (name === 'shell' && args.length === 0) {
    return { ...plain, command: ['/bin/bash'], interactive: true };
  }
  if (name === 'run' && args.length > 0) return { ...plain, command: args };
  const [driver = '', ...filters] = args;
  const vmm = driver === 'firecracker' ? 'firecracker' : 'qemu';
  if (name === 'contract' && DRIVERS.includes(driver)) {
    const files = filters.length > 0 ? filters : [`vmm/${vmm}/contract.lab`, ...SANDBOX_TESTS];
    return {
      ...plain,
      command: testsCommand(files),
      environment: { WRENN_LAB_DRIVER: driver },
      isTests: true,
      needsFirecracker: driver === 'firecracker',
      withoutFirecracker: testsCommand([`vmm/${vmm}/contract.lab`]),
    };
  }
  if (name === 'bench' && DRIVERS.includes(driver) && filters.length === 0) {
    const args = ['--driver', vmm, '--creates-only', '--rounds', BENCH_ROUNDS, '--json', REPORT];
    return {
      ...plain,
      command: ['node', 'bench/dist/main.js', ...args],
      needsFirecracker: driver === 'firecracker',
    };
  }
  throw new WrennError('invalid_argument', 'That is no suite of the laboratory.', { hint: USAGE });
}
