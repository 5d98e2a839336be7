/** A small Node program that serves in a namespace and says, line by line, who came. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

const START_MS = 15_000;

export interface Server {
  /** What it has said, in order. */
  readonly seen: readonly string[];
  close(): Promise<void>;
}

/** Resolves when the program says `ready`. */
export async function serveIn(netns: string, program: string, argument: string): Promise<Server> {
  const words = [`--net=/run/netns/${netns}`, process.execPath, '-e', program, argument];
  const child = spawn('nsenter', words, { stdio: ['ignore', 'pipe', 'inherit'] });
  const close = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  };
  const seen: string[] = [];
  try {
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (line === 'ready') resolve();
        else seen.push(line);
      });
      child.once('exit', () => reject(new Error(`the server in ${netns} ended`)));
      setTimeout(() => reject(new Error(`the server in ${netns} is late`)), START_MS).unref();
    });
  } catch (error) {
    await close();
    throw error;
  }
  return { seen, close };
}
