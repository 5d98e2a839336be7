/** What tells one request from another, in logs and for whoever made it. */
import { randomBytes } from 'node:crypto';

const ID_BYTES = 4;

/** Of this process and no other: logs are kept for longer than it lives. */
export function createRequestIds(): () => string {
  const prefix = randomBytes(ID_BYTES).toString('hex');
  let count = 0;
  return () => {
    count += 1;
    return `${prefix}-${count}`;
  };
}
