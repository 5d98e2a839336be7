/** What tells one request from another, in logs and for whoever made it. */
import { randomBytes } from 'node:crypto';

const ID_BYTES = 8;

/** Strangers get them, too: nothing can be counted by them. */
export function createRequestId(): string {
  return randomBytes(ID_BYTES).toString('hex');
}
