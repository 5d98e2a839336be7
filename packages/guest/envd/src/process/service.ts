/** The RPCs of process.Process. What a process is lives in the files beside this one. */
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import {
  ConnectResponseSchema,
  ListResponseSchema,
  type Process,
  ProcessInfoSchema,
  type ProcessInput,
  Signal,
  StartResponseSchema,
} from '@wrenn/protocol/process';
import { type EnvdContext, requestUser } from '../context.ts';
import { toCommand, toPtySize } from './command.ts';
import { endEvent, followProcess, keepaliveMs, startEvent } from './follow.ts';
import { createProcessRegistry } from './registry.ts';
import { type RunningProcess, superviseProcess } from './running-process.ts';
import { spawn } from './spawn.ts';

export function createProcessService(context: EnvdContext): ServiceImpl<typeof Process> {
  const { libc, credentials } = context;
  const registry = createProcessRegistry();

  return {
    list: () =>
      create(ListResponseSchema, {
        processes: registry
          .list()
          .map(({ pid, config, tag }) =>
            create(ProcessInfoSchema, tag === undefined ? { pid, config } : { pid, config, tag }),
          ),
      }),

    start: async function* (request, call) {
      const user = requestUser(context, call.requestHeader);
      const command = toCommand(request, user, context);
      const process = superviseProcess(libc, spawn(libc, credentials, command), {
        tag: request.tag,
        config: command.config,
        // The call's deadline is the process's, not the caller's: leaving early does not kill.
        killAfterMs: call.timeoutMs(),
      });
      registry.add(process);
      const { pid, config } = process;
      context.activity.processStarted(pid, [config.cmd, ...config.args]);
      void process.ended.then(({ status }) => context.activity.processEnded(pid, status));
      for await (const event of followProcess(process, keepaliveMs(call.requestHeader), call.signal)) {
        // The process may be gone before the call itself has noticed that its time is over.
        if (event.event.case === 'end' && process.timedOut()) {
          throw new ConnectError('the operation timed out', Code.DeadlineExceeded);
        }
        yield create(StartResponseSchema, { event });
      }
    },

    connect: async function* (request, call) {
      const process = registry.runningOrEnded(request.process);
      if ('exit' in process) {
        yield create(ConnectResponseSchema, { event: startEvent(process.pid) });
        yield create(ConnectResponseSchema, { event: endEvent(process.exit) });
        return;
      }
      for await (const event of followProcess(process, keepaliveMs(call.requestHeader), call.signal)) {
        yield create(ConnectResponseSchema, { event });
      }
    },

    update: (request) => {
      const process = registry.running(request.process);
      if (request.pty !== undefined) process.resize(toPtySize(request.pty.size));
      return {};
    },

    sendInput: async (request, call) => {
      await writeInput(registry.running(request.process), request.input, call.signal);
      return {};
    },

    streamInput: async (requests, call) => {
      let process: RunningProcess | undefined;
      for await (const { event } of requests) {
        switch (event.case) {
          case 'start':
            process = registry.running(event.value.process);
            break;
          case 'data':
            if (process === undefined) {
              throw new ConnectError('the first message must say which process', Code.InvalidArgument);
            }
            await writeInput(process, event.value.input, call.signal);
            break;
          case 'keepalive':
            break;
          default:
            throw new ConnectError('the message has no event', Code.InvalidArgument);
        }
      }
      return {};
    },

    sendSignal: (request) => {
      const process = registry.running(request.process);
      switch (request.signal) {
        case Signal.SIGTERM:
          process.signal('SIGTERM');
          return {};
        case Signal.SIGKILL:
          process.signal('SIGKILL');
          return {};
        default:
          throw new ConnectError(`invalid signal: ${request.signal}`, Code.Unimplemented);
      }
    },

    closeStdin: async (request) => {
      await registry.running(request.process).closeStdin();
      return {};
    },
  };
}

async function writeInput(
  process: RunningProcess,
  input: ProcessInput | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { case: kind, value } = input?.input ?? { case: undefined, value: undefined };
  if (kind === undefined) throw new ConnectError('no input was given', Code.InvalidArgument);
  await process.write(kind, value, signal);
}
