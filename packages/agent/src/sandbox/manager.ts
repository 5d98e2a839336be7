/** All sandboxes of this agent. Whoever wants anything of a sandbox comes through here. */
import { randomBytes } from 'node:crypto';
import { newSandboxId, parseSandboxId, WrennError } from '@wrenn/protocol';
import { withinMs } from '../signals/signals.ts';
import type { Template } from '../storage/storage.ts';
import { createCleanupStack } from './cleanup-stack.ts';
import { followConsole } from './console.ts';
import { createStopwatch, type Stopwatch } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { type ExecInput, type ExecOutput, type ExecRequest, exec } from './exec.ts';
import { checkUser, createGuestFiles, type GuestFiles } from './guest.ts';
import type { JournalRecord } from './journal.ts';
import { recover } from './recover.ts';
import { createRetained } from './retained.ts';
import { createSandbox, type Sandbox, type SandboxView } from './sandbox.ts';
import {
  type CreateRequest,
  checkEnvs,
  checkRequest,
  checkTimeout,
  type SandboxSpec,
  usableMemoryMib,
} from './spec.ts';

export interface SandboxManager {
  /**
   * Finds again what an earlier agent has left, and prepares the network. To be called once, before the rest.
   */
  start(signal: AbortSignal): Promise<void>;
  /** Settles when the guest agent has answered. Goes on when nobody waits for it: it stays in the list. */
  create(request: CreateRequest): Promise<SandboxView>;
  /** Throws `sandbox_not_found`, as everything that takes an id does. */
  get(id: string): SandboxView;
  /** Newest first. */
  list(): SandboxView[];
  pause(id: string): Promise<SandboxView>;
  resume(id: string): Promise<SandboxView>;
  setTimeout(id: string, timeoutMs: number | undefined): Promise<SandboxView>;
  /** Settles when nothing of it is left. */
  destroy(id: string): Promise<void>;
  /** See exec.ts. `signal` is the caller's: when it aborts, the command is killed. */
  exec(
    id: string,
    request: ExecRequest,
    signal: AbortSignal,
    inputs?: AsyncIterable<ExecInput>,
  ): AsyncGenerator<ExecOutput, void, undefined>;
  files(id: string): GuestFiles;
  /** The console so far, and with `follow` what comes until the sandbox ends. */
  logs(id: string, follow: boolean, signal: AbortSignal): AsyncGenerator<string, void, undefined>;
  /** How many hold anything of the host's; those kept for their reason do not count. */
  liveCount(): number;
  /** Lets go of every sandbox and leaves the microVMs running. Nothing may be asked afterwards. */
  detach(): Promise<void>;
}

const COMMAND_MAX_BYTES = 1024 * 1024;
const TERMINAL_MAX = 0xffff;
const ACCESS_TOKEN_BYTES = 32;

export function createSandboxManager(deps: SandboxDeps): SandboxManager {
  const { config, host, log, observer, network } = deps;
  const { limits, timeouts } = config;
  const sandboxes = new Map<string, Sandbox>();
  const live = new Set<string>();
  let closed = false;

  const retained = createRetained(limits.keptFailures, limits.keptFailuresMs, (id) => sandboxes.delete(id));
  const onGone = (id: string): void => {
    live.delete(id);
    retained.forget(id);
    sandboxes.delete(id);
  };
  const onFailed = (id: string): void => {
    live.delete(id);
    retained.add(id);
  };

  const find = (text: string): Sandbox => {
    const id = parseSandboxId(text);
    const sandbox = sandboxes.get(id);
    if (sandbox !== undefined) return sandbox;
    throw new WrennError('sandbox_not_found', `There is no sandbox ${id}.`, {
      hint: '`wrenn sandbox ls` lists those there are.',
      field: 'id',
    });
  };

  const admit = ({ memoryMib }: SandboxSpec): void => {
    if (closed) throw new WrennError('agent_not_running', 'The agent is shutting down.');
    if (live.size >= limits.maxSandboxes) {
      throw new WrennError('too_many_sandboxes', `There are ${live.size} sandboxes already.`, {
        hint: 'Destroy some, or raise `limits.maxSandboxes`.',
      });
    }
    let promisedMib = 0;
    for (const id of live) promisedMib += sandboxes.get(id)?.view().memoryMib ?? 0;
    const totalMib = Math.floor(usableMemoryMib(limits, host) * limits.memoryOvercommitRatio);
    if (promisedMib + memoryMib <= totalMib) return;
    throw new WrennError(
      'memory_exhausted',
      `${memoryMib} MiB are more than the ${totalMib - promisedMib} MiB that are not promised to others yet.`,
      {
        hint: 'Destroy sandboxes, ask for less, or raise `limits.memoryOvercommitRatio`.',
        field: 'memory_mib',
      },
    );
  };

  /** From here on the sandbox is in the list. Not one await between the check and the entry. */
  const reserve = (spec: SandboxSpec, template: Template, timed: Stopwatch, id: string): Sandbox => {
    admit(spec);
    const cleanup = createCleanupStack(timeouts.cleanupStepMs);
    // Registered first, so it goes last: the record stays if anything that it names could not be taken away.
    cleanup.register('files', () => deps.journal.remove(id), { onlyAfterTheRest: true });
    const slotIndex = network.reserve();
    cleanup.register('slot', () => network.release(slotIndex));
    const createdAtMs = Date.now();
    const record: JournalRecord = {
      version: 1,
      id,
      bootId: host.bootId,
      state: 'creating',
      template: template.name,
      buildId: template.buildId,
      vcpus: spec.vcpus,
      memoryMib: spec.memoryMib,
      diskMib: spec.diskMib,
      rateLimits: spec.rateLimits,
      envs: { ...identityEnvs(id, template), ...spec.envs },
      metadata: { ...spec.metadata },
      createdAtMs,
      endsAtMs: spec.timeoutMs === undefined ? null : createdAtMs + spec.timeoutMs,
      slotIndex,
      uid: config.uidBase + slotIndex,
      accessToken: randomBytes(ACCESS_TOKEN_BYTES).toString('hex'),
      handle: null,
      phases: [],
    };
    const sandbox = createSandbox({ deps, record, journalled: false, cleanup, timed, onGone, onFailed });
    sandboxes.set(id, sandbox);
    live.add(id);
    return sandbox;
  };

  const create = async (request: CreateRequest): Promise<SandboxView> => {
    const id = newSandboxId();
    const timed = createStopwatch(deps);
    const never = new AbortController().signal;
    const { spec, template } = await timed.run('validate', id, never, async () => {
      const checked = checkRequest(request, config, host);
      return { spec: checked, template: await deps.storage.resolveTemplate(checked.template) };
    });
    await timed.begin('reserve', id, never);
    const sandbox = reserve(spec, template, timed, id);
    log.info({ sandboxId: id, template: template.name }, 'creating');
    await sandbox.create(template);
    observer.created(timed.phases);
    return sandbox.view();
  };

  const checkExec = ({ command, envs, user, cwd, terminal, timeoutMs }: ExecRequest): void => {
    if ((command[0] ?? '') === '') {
      throw new WrennError('invalid_argument', 'No command was given.', { field: 'command' });
    }
    const words = cwd === undefined ? command : [...command, cwd];
    if (words.some((word) => word.includes('\0'))) {
      throw new WrennError('invalid_argument', 'A command has a NUL byte.', { field: 'command' });
    }
    if (words.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0) > COMMAND_MAX_BYTES) {
      throw new WrennError('invalid_argument', `A command has at most ${COMMAND_MAX_BYTES} bytes.`, {
        field: 'command',
      });
    }
    checkEnvs('envs', envs, limits.maxEnvEntries, limits.maxEnvBytes);
    checkUser(user);
    checkTimeout(timeoutMs, limits.maxTimeoutMs);
    if (terminal === undefined) return;
    if ([terminal.cols, terminal.rows].every((n) => Number.isInteger(n) && n >= 0 && n <= TERMINAL_MAX))
      return;
    throw new WrennError('invalid_argument', "That is no terminal's size.", { field: 'terminal' });
  };

  return {
    start: async (signal) => {
      const left = await recover(deps, { onGone, onFailed }, signal);
      for (const sandbox of left) {
        sandboxes.set(sandbox.id, sandbox);
        if (sandbox.view().state === 'failed') retained.add(sandbox.id);
        else live.add(sandbox.id);
      }
    },
    create: async (request) => {
      try {
        return await create(request);
      } catch (error) {
        const failure = WrennError.from(error);
        observer.createFailed(failure.code);
        log.warn({ err: error, code: failure.code }, 'a sandbox could not be created');
        throw failure;
      }
    },
    get: (id) => find(id).view(),
    list: () =>
      [...sandboxes.values()]
        .map((sandbox) => sandbox.view())
        .sort((a, b) => b.createdAtMs - a.createdAtMs || (a.id < b.id ? -1 : 1)),
    pause: async (id) => {
      const sandbox = find(id);
      await sandbox.pause();
      return sandbox.view();
    },
    resume: async (id) => {
      const sandbox = find(id);
      await sandbox.resume();
      return sandbox.view();
    },
    setTimeout: async (id, timeoutMs) => {
      const sandbox = find(id);
      checkTimeout(timeoutMs, limits.maxTimeoutMs);
      await sandbox.setTimeout(timeoutMs);
      return sandbox.view();
    },
    destroy: async (id) => find(id).destroy(),
    exec: async function* (id, request, signal, inputs) {
      const sandbox = find(id);
      checkExec(request);
      observer.execStarted();
      yield* exec(sandbox.use(), request, timeouts, signal, inputs);
    },
    files: (id) => {
      const sandbox = find(id);
      return createGuestFiles(() => sandbox.use(), timeouts);
    },
    logs: (id, follow, signal) => followConsole(find(id), follow, signal),
    liveCount: () => live.size,
    detach: async () => {
      closed = true;
      const leaving = [...sandboxes.values()].map(async (sandbox) => {
        try {
          await withinMs(timeouts.shutdownMs, 'Letting go', sandbox.detach());
        } catch (err) {
          log.warn({ sandboxId: sandbox.id, err }, 'a sandbox is left to the next agent');
        }
      });
      await Promise.all(leaving);
    },
  };
}

/** How a program in a sandbox learns where it is; the names are those that E2B's programs look for. */
function identityEnvs(id: string, template: Template): Record<string, string> {
  return { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: id, E2B_TEMPLATE_ID: template.buildId };
}
