/** Against a guest that plays its part in memory. */
import { setImmediate } from 'node:timers/promises';
import { createClient, createRouterTransport } from '@connectrpc/connect';
import { type ExecRequest, GuestService } from '@wrenn/protocol/agent';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type ExecSession, runExecSession } from './exec-session.ts';
import { catchInterrupts, type Interrupts } from './interrupts.ts';

let interrupts: Interrupts;
beforeEach(() => {
  interrupts = catchInterrupts();
});
afterEach(() => {
  interrupts.release();
  vi.restoreAllMocks();
});

function sessionOf(): ExecSession {
  return {
    sandboxId: 'a',
    command: ['true'],
    envs: {},
    cwd: '',
    user: '',
    timeoutMs: undefined,
    stdin: false,
    terminal: false,
    interrupts,
  };
}

it('does not touch standard input where the command has none', async () => {
  const asked: ExecRequest['message'][] = [];
  const transport = createRouterTransport((router) => {
    router.service(GuestService, {
      exec: async function* (requests) {
        for await (const { message } of requests) {
          asked.push(message);
          break;
        }
        yield { message: { case: 'exited', value: { exitCode: 7 } } };
      },
    });
  });
  const touched = vi.spyOn(process, 'stdin', 'get');
  expect(await runExecSession({ guest: createClient(GuestService, transport) }, sessionOf())).toBe(7);
  expect(asked).toMatchObject([{ case: 'start', value: { command: ['true'], stdin: false } }]);
  expect(touched).not.toHaveBeenCalled();
});

it('goes on without a reader of stderr', async () => {
  const transport = createRouterTransport((router) => {
    router.service(GuestService, {
      exec: async function* () {
        yield { message: { case: 'stderr', value: Buffer.from('warning') } };
        yield { message: { case: 'exited', value: { exitCode: 0 } } };
      },
    });
  });
  const ignore = () => {};
  process.stderr.on('error', ignore);
  vi.spyOn(process.stderr, 'write').mockImplementation(() => {
    void setImmediate().then(() => process.stderr.emit('error', new Error('EPIPE')));
    return false;
  });
  try {
    const code = await runExecSession({ guest: createClient(GuestService, transport) }, sessionOf());
    expect(code).toBe(0);
  } finally {
    process.stderr.off('error', ignore);
  }
});
