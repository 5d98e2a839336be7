/** One command in a sandbox, by each of the two ways there are. */
import { create } from '@bufbuild/protobuf';
import { type ExecRequest, ExecRequestSchema } from '@wrenn/protocol/agent';
import type { EnvdClient } from '../packages/agent/src/envd-client/client.ts';
import type { BenchAgent } from './bench-agent.ts';

const TIMEOUT_MS = 120_000;

/** Resolves with its stdout. */
export async function execByAgent(
  { client }: BenchAgent,
  sandboxId: string,
  command: string[],
  signal: AbortSignal,
): Promise<string> {
  async function* requests(): AsyncGenerator<ExecRequest> {
    yield create(ExecRequestSchema, { message: { case: 'start', value: { sandboxId, command } } });
  }
  // Not `timeoutMs`: its timer would outlive the call and keep the process from ending.
  const limited = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]);
  let stdout = '';
  for await (const { message } of client.guest.exec(requests(), { signal: limited })) {
    if (message.case === 'stdout') stdout += Buffer.from(message.value).toString();
    if (message.case !== 'exited') continue;
    if (message.value.exitCode === 0) return stdout;
    throw new Error(`${command[0]} in the guest: ${message.value.status}`);
  }
  throw new Error('the command did not tell how it ended');
}

export function processOf(command: readonly string[]) {
  return { command, envs: {}, cwd: undefined, user: undefined, terminal: undefined, stdin: false };
}

export async function execByEnvd(
  envd: EnvdClient,
  command: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const limited = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]);
  for await (const { event } of envd.startProcess(processOf(command), limited)) {
    if (event.case !== 'end') continue;
    if (event.value.exitCode === 0) return;
    throw new Error(`${command[0]} in the guest: ${event.value.status}`);
  }
  throw new Error('the command did not tell how it ended');
}
