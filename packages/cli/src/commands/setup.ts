/** `wrenn setup`: system packages, kernel, guest image, templates. */

import { agentPaths, loadConfig } from '@wrenn/agent';
import {
  ensureArtifacts,
  ensureSystemPackages,
  type ProgressEvent,
  TEMPLATE_NAMES,
  type TemplateName,
} from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { EXIT } from '../exit-codes.ts';
import { catchInterrupts } from '../interrupts.ts';
import { READER_LEFT } from '../lost-output.ts';
import { formatDuration, printable } from '../output.ts';

export interface SetupOptions {
  readonly template?: readonly string[];
  readonly json?: boolean;
}

const LONG_MS = 1_000;

/** Resolves with the exit code. */
export async function setUp(options: SetupOptions): Promise<number> {
  const templates = (options.template ?? ['base']).map(parseTemplate);
  const { imagesDir } = agentPaths(loadConfig());
  const onProgress = options.json ? printEvent : createReporter();
  const interrupts = catchInterrupts();
  // What is at work ends within a bound, or must not be broken off.
  interrupts.onLater = () => {};
  try {
    await ensureSystemPackages({ onProgress, signal: interrupts.signal });
    await ensureArtifacts({ wrennDir: imagesDir, templates, onProgress, signal: interrupts.signal });
    interrupts.signal.throwIfAborted();
    return EXIT.ok;
  } catch (error) {
    const exitCode = interrupts.exitCode();
    if (exitCode === READER_LEFT) return exitCode;
    // Whoever a signal ended tells more than the signal: packages may have been installed all the same.
    throw interrupts.signal.aborted && exitCode === undefined ? interrupts.signal.reason : error;
  } finally {
    interrupts.release();
  }
}

function parseTemplate(name: string): TemplateName {
  const known = TEMPLATE_NAMES.find((template) => template === name);
  if (known !== undefined) return known;
  throw new WrennError(
    'template_not_found',
    `There is no recipe for a template ${JSON.stringify(name.slice(0, 64))}.`,
    {
      hint: `Known: ${TEMPLATE_NAMES.join(', ')}`,
      field: '--template',
    },
  );
}

function printEvent(event: ProgressEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** One line a step; on a terminal the line of the present step shows what it is doing. */
function createReporter(): (event: ProgressEvent) => void {
  const terminal = process.stderr.isTTY === true;
  const width = () => Math.max(20, (process.stderr.columns || 80) - 1);
  const transient = (text: string) => {
    if (terminal) process.stderr.write(`\r\x1b[K${text.slice(0, width())}`);
  };
  let printedAtMs = 0;
  return ({ step, state, message, elapsedMs }) => {
    const text = printable(message);
    if (state === 'started') {
      printedAtMs = 0;
      transient(`… ${step}: ${text}`);
    } else if (state === 'progress') {
      transient(`… ${step}: ${text} (${formatDuration(elapsedMs)})`);
      // Where lines cannot be overwritten, a few of them are enough.
      if (!terminal && elapsedMs - printedAtMs > 10 * LONG_MS) {
        printedAtMs = elapsedMs;
        process.stderr.write(`… ${step}: ${text} (${formatDuration(elapsedMs)})\n`);
      }
    } else {
      transient('');
      const took = state === 'done' ? `, took ${formatDuration(elapsedMs)}` : '';
      process.stderr.write(`✓ ${step}: ${text}${took}\n`);
    }
  };
}
