import type { ServiceImpl } from '@connectrpc/connect';
import type { Filesystem } from '@wrenn/protocol/filesystem';
import type { EnvdContext } from '../context.ts';

export function createFilesystemService(_context: EnvdContext): Partial<ServiceImpl<typeof Filesystem>> {
  return {};
}
