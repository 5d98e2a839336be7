/**
 * POST /quiesce: the host is about to take a snapshot of this machine. What clones would each load for themselves is
 * loaded, what nobody needs is given back, and what is not on the drives yet goes there. The machine goes on as before:
 * nothing is stopped, and a snapshot that is never taken has cost nothing but time.
 */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { logError } from '../log.ts';
import type { Credentials } from '../sys/credentials.ts';
import { startHelper } from '../sys/helper.ts';
import { parseObject, readText } from './body.ts';
import { errorJson, noContent } from './respond.ts';

export interface QuiesceDependencies {
  readonly credentials: Credentials;
  /** Whether the page cache may be dropped. */
  readonly ownMachine: boolean;
  /** Loads all that is loaded lazily. */
  loadParts(): Promise<unknown>;
}

export interface QuiesceRequest {
  readonly dropCaches: boolean;
}

const BODY_MAX_BYTES = 1024;
/** A busy drive may need longer; what is not written by then is in the snapshot's memory. */
const WRITE_BACK_MAX_MS = 3_000;
/** It is on the guest drive, whatever the template lacks. */
const GUEST_BUSYBOX = '/run/wrenn/busybox';
const DROP_CACHES = '/proc/sys/vm/drop_caches';

export function createQuiesce(dependencies: QuiesceDependencies): (request: Request) => Promise<Response> {
  const { credentials, ownMachine, loadParts } = dependencies;

  async function writeBack(dropCaches: boolean): Promise<void> {
    // A program, because the system call would hold up everything else here for as long as the drive takes.
    const command = existsSync(GUEST_BUSYBOX) ? [GUEST_BUSYBOX, 'sync'] : ['sync'];
    await startHelper(credentials, command, WRITE_BACK_MAX_MS).exited;
    // Only what is clean can be dropped.
    if (dropCaches) await writeFile(DROP_CACHES, '3');
  }

  return async (request) => {
    const body = await readText(request, BODY_MAX_BYTES);
    if (body === undefined) return errorJson(413, `the request is larger than ${BODY_MAX_BYTES} bytes`);
    const quiesce = parseQuiesce(body);
    if (typeof quiesce === 'string') return errorJson(400, quiesce);
    if (quiesce.dropCaches && !ownMachine) return errorJson(501, 'envd was started without --own-machine');
    await loadParts();
    Bun.gc(true);
    await within(WRITE_BACK_MAX_MS, writeBack(quiesce.dropCaches));
    // The connection would be in the snapshot, with nobody at its other end.
    return noContent({ Connection: 'close' });
  };
}

/** The request, or why it is none. */
export function parseQuiesce(text: string): QuiesceRequest | string {
  const fields = parseObject(text);
  if (fields === undefined) return 'the body is not a JSON object';
  const dropCaches = fields.dropCaches ?? false;
  if (typeof dropCaches !== 'boolean') return 'dropCaches is not a boolean';
  return { dropCaches };
}

/** Settles with the work or with the time, whichever comes first. Failures are logged: a snapshot is whole without. */
async function within(timeoutMs: number, work: Promise<void>): Promise<void> {
  let timer: Timer | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([work.catch((error) => logError('cannot write back', error)), late]);
  clearTimeout(timer);
}
