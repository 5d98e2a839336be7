import type { Libc } from '../sys/libc.ts';
import { errorJson } from './respond.ts';
export function metrics(_libc: Libc): Response {
  return errorJson(501, 'not yet');
}
