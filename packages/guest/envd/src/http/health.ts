import { noContent } from './respond.ts';

/** GET /health: that this answers at all is the answer. */
export function health(): Response {
  return noContent();
}
