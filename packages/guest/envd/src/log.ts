/** envd's log is its stderr: a line per event, and never what belongs to users (commands, input, output). */

export function logError(what: string, error: unknown): void {
  // The stack and not the error itself: printing that would quote the minified source around it.
  console.error(`envd: ${what}:`, error instanceof Error ? (error.stack ?? error.message) : String(error));
}
