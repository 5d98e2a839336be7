import type { EnvdContext } from '../context.ts';
import { errorJson } from './respond.ts';
export interface InitOptions {
  readonly setClock: boolean;
}
export function createInit(
  _context: EnvdContext,
  _options: InitOptions,
): (request: Request) => Promise<Response> {
  return async () => errorJson(501, 'not yet');
}
