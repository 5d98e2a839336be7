/**
 * What was done in this machine through its agent, for whoever asks afterwards: processes as they start and end, without
 * their output. Bounded, and in memory: it sleeps and wakes with the machine, and a clone begins without it.
 */

export interface ActivityEntry {
  readonly atMs: number;
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
}

export interface Activity {
  processStarted(pid: number, command: readonly string[]): void;
  processEnded(pid: number, status: string): void;
  /** Oldest first. */
  entries(): readonly ActivityEntry[];
  clear(): void;
}

const ENTRIES_MAX = 1_000;
const COMMAND_MAX_CHARS = 200;

export function createActivity(): Activity {
  let all: ActivityEntry[] = [];
  const note = (message: string, fields: Readonly<Record<string, string>>): void => {
    all.push({ atMs: Date.now(), message, fields });
    // By halves: one at a time would move all the others each time.
    if (all.length >= 2 * ENTRIES_MAX) all = all.slice(-ENTRIES_MAX);
  };
  return {
    processStarted: (pid, command) =>
      note(`process ${pid} started: ${shortened(command)}`, { event: 'process_start', pid: String(pid) }),
    processEnded: (pid, status) =>
      note(`process ${pid} ended: ${status}`, { event: 'process_end', pid: String(pid) }),
    entries: () => all.slice(-ENTRIES_MAX),
    clear: () => {
      all = [];
    },
  };
}

function shortened(command: readonly string[]): string {
  let text = '';
  for (const word of command) {
    text += text === '' ? word : ` ${word}`;
    if (text.length > COMMAND_MAX_CHARS) return `${text.slice(0, COMMAND_MAX_CHARS)}…`;
  }
  return text;
}
