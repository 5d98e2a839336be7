/** Around every request: the limit on how many there are, errors made presentable, and the count of outcomes. */
import { ConnectError, type Interceptor } from '@connectrpc/connect';
import { type ErrorCode, WrennError } from '@wrenn/protocol';
import type { Logger } from '../sandbox/log.ts';
import { toConnectError } from './errors.ts';
import { presentable } from './own-errors.ts';

export interface InterceptorOptions {
  readonly isOverloaded: () => boolean;
  readonly onRequestEnded: (method: string, code: ErrorCode | 'ok') => void;
  readonly log: Logger;
}

export function createInterceptor({ isOverloaded, onRequestEnded, log }: InterceptorOptions): Interceptor {
  const fail = (method: string, thrown: unknown): ConnectError => {
    const error = toWrennError(thrown);
    onRequestEnded(method, error.code);
    if (error.kind === 'internal') log.error({ method, err: thrown }, 'a request failed');
    else log.debug({ method, code: error.code, err: thrown }, 'a request was refused');
    return toConnectError(error);
  };

  async function* following<T>(method: string, messages: AsyncIterable<T>): AsyncGenerator<T> {
    try {
      yield* messages;
      onRequestEnded(method, 'ok');
    } catch (error) {
      throw fail(method, error);
    }
  }

  return (next) => async (request) => {
    const method = request.method.name;
    try {
      if (isOverloaded()) {
        throw new WrennError('too_many_requests', 'The agent has too many requests under way.', {
          hint: 'Wait for some of them to end, or raise `server.maxConcurrentRequests`.',
        });
      }
      const response = await next(request);
      if (response.stream) return { ...response, message: following(method, response.message) };
      onRequestEnded(method, 'ok');
      return response;
    } catch (error) {
      throw fail(method, error);
    }
  };
}

/** What Connect itself throws of a request (too large, not to be decoded, cancelled) has a meaning of its own. */
function toWrennError(thrown: unknown): WrennError {
  return thrown instanceof ConnectError ? presentable(thrown) : WrennError.from(thrown);
}
