import type { ServiceImpl } from '@connectrpc/connect';
import type { Process } from '@wrenn/protocol/process';
import type { EnvdContext } from '../context.ts';
export function createProcessService(_context: EnvdContext): Partial<ServiceImpl<typeof Process>> {
  return {};
}
