/** All RPCs of envd. Loaded with the first of them: see lazy.ts for what that saves. */
import { Filesystem } from '@wrenn/protocol/filesystem';
import { Process } from '@wrenn/protocol/process';
import type { EnvdContext } from './context.ts';
import { createFilesystemService } from './filesystem/service.ts';
import { processJson } from './process/fast-json.ts';
import { createProcessService } from './process/service.ts';
import { createRpcRoutes, type RpcRoute } from './rpc/serve.ts';

export function createAllRpcRoutes(context: EnvdContext): ReadonlyMap<string, RpcRoute> {
  const { lives } = context;
  return new Map([
    ...createRpcRoutes(Process, createProcessService(context), { lives, fast: processJson }),
    ...createRpcRoutes(Filesystem, createFilesystemService(context), { lives }),
  ]);
}
