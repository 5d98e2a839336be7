/**
 * Starts a microVM and waits until its guest is of use. A kernel that hangs before it hands over to init is
 * the machine's fault and worth another try; whatever goes wrong later is the guest's and would again.
 */
import { CONSOLE_INIT_STARTED, WrennError } from '@wrenn/protocol';
import { joinSignals } from '../signals/signals.ts';
import { soon } from '../signals/soon.ts';
import type { ExitReason, LaunchOptions, Microvm, MicrovmHandle } from './driver.ts';

export interface BootOptions {
  readonly signal: AbortSignal;
  /** As in LaunchOptions; called once for each attempt. */
  readonly onSpawned: (handle: MicrovmHandle) => Promise<void>;
  /** Resolves when the guest is of use; its failure fails the boot. */
  readonly ready: (microvm: Microvm, signal: AbortSignal) => Promise<void>;
  /** For one attempt, from the start of the VMM until `ready` resolves. */
  readonly bootDeadlineMs: number;
  readonly attempts: number;
  /** For the log. The diagnosis is what the VMM could still say, or empty. */
  readonly onAttemptFailed?: (attempt: number, diagnosis: string, error: unknown) => void;
}

/** All of a driver that a boot needs; the spec is the driver's own business. */
export interface Launcher<Spec> {
  launch(spec: Spec, options: LaunchOptions): Promise<Microvm>;
}

const DIAGNOSIS_TIMEOUT_MS = 5_000;
/** A guest that ends breaks its connections a moment before its VMM's end is told. */
const EXIT_NOTICE_MS = 250;
const CONSOLE_LINES_SEARCHED = 2_000;
const CONSOLE_LINES_IN_ERROR = 3;
const VMM_LINES_IN_ERROR = 2;

/**
 * Throws `boot_timeout`, `vmm_died`, `cancelled`, or what `launch` or `ready` threw. In each case nothing of
 * the microVM is left.
 */
export async function bootMicrovm<Spec>(
  driver: Launcher<Spec>,
  spec: Spec,
  options: BootOptions,
): Promise<Microvm> {
  for (let attempt = 1; ; attempt++) {
    const outcome = await tryOnce(driver, spec, options);
    if (outcome.kind === 'ready') return outcome.microvm;
    options.onAttemptFailed?.(attempt, outcome.diagnosis, outcome.error);
    if (outcome.kind === 'failed' || attempt >= options.attempts) throw outcome.error;
  }
}

type Outcome =
  | { readonly kind: 'ready'; readonly microvm: Microvm }
  | { readonly kind: 'failed' | 'hung'; readonly error: unknown; readonly diagnosis: string };

type Event =
  | { readonly kind: 'ready' | 'deadline' | 'cancelled' }
  | { readonly kind: 'exited'; readonly reason: ExitReason }
  | { readonly kind: 'not-ready'; readonly error: unknown };

async function tryOnce<Spec>(
  driver: Launcher<Spec>,
  spec: Spec,
  { signal, onSpawned, ready, bootDeadlineMs }: BootOptions,
): Promise<Outcome> {
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(), bootDeadlineMs);
  const joined = joinSignals(signal, deadline.signal);
  const release = (): void => {
    clearTimeout(timer);
    joined.release();
  };
  let microvm: Microvm;
  try {
    microvm = await driver.launch(spec, { signal: joined.signal, onSpawned });
  } catch (error) {
    release();
    const late = deadline.signal.aborted && !signal.aborted;
    return {
      kind: 'failed',
      error: late ? timedOut(bootDeadlineMs, 'The VMM', [], error) : error,
      diagnosis: '',
    };
  }
  let event: Event;
  try {
    event = await firstEvent(microvm, ready, joined.signal, () => signal.aborted);
  } finally {
    release();
  }
  if (event.kind === 'ready') return { kind: 'ready', microvm };

  const diagnosis = event.kind === 'cancelled' ? '' : await diagnose(microvm);
  const console = await microvm.consoleTail(CONSOLE_LINES_SEARCHED);
  await microvm.kill();
  switch (event.kind) {
    case 'cancelled':
      return { kind: 'failed', error: cancelled(signal.reason), diagnosis };
    case 'not-ready':
      return { kind: 'failed', error: event.error, diagnosis };
    case 'exited':
      return { kind: 'failed', error: died(event.reason, console), diagnosis };
    case 'deadline': {
      const started = console.some((line) => line.includes(CONSOLE_INIT_STARTED));
      const who = started ? 'The guest' : "The guest's kernel";
      return {
        kind: started ? 'failed' : 'hung',
        error: timedOut(bootDeadlineMs, who, console, undefined),
        diagnosis,
      };
    }
  }
}

async function firstEvent(
  microvm: Microvm,
  ready: BootOptions['ready'],
  signal: AbortSignal,
  isCancelled: () => boolean,
): Promise<Event> {
  const exited = microvm.exited.then((reason): Event => ({ kind: 'exited', reason }));
  const aborted = new Promise<Event>((resolve) => {
    const onAbort = (): void => resolve({ kind: isCancelled() ? 'cancelled' : 'deadline' });
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  const tried = ready(microvm, signal).then(
    (): Event => ({ kind: 'ready' }),
    (error: unknown): Event => ({ kind: 'not-ready', error }),
  );
  const event = await Promise.race([exited, aborted, tried]);
  if (event.kind !== 'not-ready') return event;
  const cause = await soon(exited, EXIT_NOTICE_MS, signal);
  return cause ?? (signal.aborted ? aborted : event);
}

async function diagnose(microvm: Microvm): Promise<string> {
  try {
    return await microvm.diagnose(AbortSignal.timeout(DIAGNOSIS_TIMEOUT_MS));
  } catch (error) {
    return `No diagnosis: ${WrennError.from(error).message}`;
  }
}

function lastWords(console: readonly string[]): string {
  const lines = console.slice(-CONSOLE_LINES_IN_ERROR).map((line) => line.slice(0, 200));
  return lines.length === 0 ? 'Its console is empty.' : `Its console ends with: ${lines.join(' | ')}`;
}

function died(reason: ExitReason, console: readonly string[]): WrennError {
  // A guest that printed nothing did not get far: then it is the VMM that knows why.
  const vmm = reason.log.slice(-VMM_LINES_IN_ERROR).map((line) => line.slice(0, 200));
  const words = console.length > 0 || vmm.length === 0 ? lastWords(console) : `It said: ${vmm.join(' | ')}`;
  return new WrennError('vmm_died', `${reason.message} ${words}`, {
    hint: "The agent's log has all that the VMM said.",
    cause: reason.log,
  });
}

function timedOut(afterMs: number, who: string, console: readonly string[], cause: unknown): WrennError {
  return new WrennError('boot_timeout', `${who} was not up within ${afterMs} ms. ${lastWords(console)}`, {
    hint: "An overloaded host boots slowly; the agent's log has the state of the VMM.",
    cause,
  });
}

function cancelled(cause: unknown): WrennError {
  return new WrennError('cancelled', 'The boot was cancelled.', { cause });
}
