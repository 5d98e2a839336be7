/** What `wrenn doctor` says of KVM, in one line, on machines of each kind: this one with another /dev. */
import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CLI, createFixture, type Fixture } from './wrenn.ts';

let wrenn: Fixture;
beforeAll(() => {
  wrenn = createFixture();
});
afterAll(() => wrenn.close());

const NO_KVM = ['--dev-bind', '/', '/', '--cap-add', 'ALL', '--dev', '/dev'];
/** Opens, and is no KVM. */
const FALSE_KVM = [...NO_KVM, '--dev-bind', '/dev/null', '/dev/kvm'];

async function kvmLine(machine: readonly string[], ...options: string[]): Promise<string> {
  const words = [...machine, process.execPath, CLI, 'doctor', ...options];
  // Where something else is missing its exit code is not 0; what it says is there all the same.
  const { stdout } = await promisify(execFile)('bwrap', words, { env: { ...wrenn.env } }).catch(
    (error: unknown) => error as { stdout: string },
  );
  const lines = stdout.split('\n').filter((line) => /\bKVM\b/.test(line));
  expect(lines).toHaveLength(1);
  return lines[0] ?? '';
}

/** As an agent keeps it. */
function keepVerdict(verdict: { readonly usable: boolean; readonly reason: string }): void {
  const state = join(wrenn.directory, 'state');
  mkdirSync(state, { recursive: true });
  const names = ['kernelSha256', 'initrdSha256', 'qemuVersion', 'hostKernel', 'hostBootId', 'cpuModel'];
  const key = Object.fromEntries(names.map((name) => [name, 'x']));
  writeFileSync(join(state, 'probe.json'), JSON.stringify({ key, ...verdict }));
}

it('says that there is none', async () => {
  expect(await kvmLine(NO_KVM)).toMatch(/^note +KVM +absent \(\/dev\/kvm does not exist\)$/);
  expect(await kvmLine(NO_KVM, '--probe')).toMatch(/^note +KVM +absent /);
});

it('says that guests do not run on it, after it has tried', async () => {
  expect(await kvmLine(FALSE_KVM)).toMatch(/^note +KVM +not tried yet; `wrenn doctor --probe` boots a guest/);
  const tried = await kvmLine(FALSE_KVM, '--probe');
  expect(tried).toMatch(/^note +KVM +opens but guests do not run: QEMU ended .*Inappropriate ioctl/);
  keepVerdict({ usable: false, reason: 'opens but guests do not run: so it is' });
  expect(await kvmLine(FALSE_KVM)).toMatch(/^note +KVM +opens but guests do not run: so it is$/);
});

it('says that it is usable, once a guest has run on it', async () => {
  keepVerdict({ usable: true, reason: 'usable' });
  expect(await kvmLine(FALSE_KVM)).toMatch(/^ok +KVM +usable$/);
});
