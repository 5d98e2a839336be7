import type { EnvdContext } from '../context.ts';

export function createFilesHandler(_context: EnvdContext): (request: Request) => Promise<Response> {
  return async () => new Response(null, { status: 501 });
}
