/** Move: a rename, and across file systems (from /tmp to the home, say) a copy that keeps everything. */
import { spawn } from 'node:child_process';
import { rename } from 'node:fs/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { errnoCode } from '../sys/errno.ts';

const COPY_TIMEOUT_MS = 30 * 60 * 1000;
const STDERR_MAX_CHARACTERS = 1000;

/** What is at the destination is replaced as rename(2) does it. */
export async function movePath(source: string, destination: string): Promise<void> {
  try {
    await rename(source, destination);
  } catch (error) {
    if (errnoCode(error) !== 'EXDEV') throw error;
    await moveByCopy(source, destination);
  }
}

/**
 * mv(1) keeps owners, modes, times, attributes and links of whole trees, and takes the source away last.
 * The caller may leave; what has begun is finished, for half a move is worse than a late one.
 */
function moveByCopy(source: string, destination: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const mv = spawn('mv', ['-T', '--', source, destination], {
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: COPY_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    let complaint = '';
    mv.stderr.setEncoding('utf8').on('data', (text: string) => {
      complaint = (complaint + text).slice(0, STDERR_MAX_CHARACTERS);
    });
    mv.on('error', reject);
    mv.on('close', (exitCode) => {
      if (exitCode === 0) resolve();
      else reject(new ConnectError(complaint.trim() || `mv ended with ${exitCode}`, Code.Internal));
    });
  });
}
