/**
 * The one connection to the agent, opened when something is asked and again after it broke. Connect's own manager takes
 * its listeners from a connection that an agent ends in good order, when the next request comes at the same moment: its
 * error is nobody's then, and ends the process.
 */
import { type ClientHttp2Session, connect as connectHttp2, constants } from 'node:http2';
import { connect } from 'node:net';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Http2SessionManager } from '@connectrpc/connect-node';

/** What a transport needs of one. */
type SessionManager = Pick<Http2SessionManager, 'authority' | 'request' | 'notifyResponseByteRead'>;

export interface AgentSession extends SessionManager {
  /** Ends what is under way. */
  close(): void;
}

/** `authority` is what the agent is told that it is called; the connection always goes to the unix socket. */
export function createAgentSession(socketPath: string, authority: string): AgentSession {
  let current: Promise<ClientHttp2Session> | undefined;
  const sessions = new Set<ClientHttp2Session>();
  let isClosed = false;

  const open = (): Promise<ClientHttp2Session> => {
    const session = connectHttp2(authority, { createConnection: () => connect({ path: socketPath }) });
    sessions.add(session);
    const opened = new Promise<ClientHttp2Session>((resolve, reject) => {
      session.once('connect', () => resolve(session));
      // For as long as it is there, whoever has given it up: each request is told by its own stream.
      session.on('error', (cause) => reject(notReached(cause)));
      session.once('close', () => reject(notReached(undefined)));
    });
    const forget = (): void => {
      if (current === opened) current = undefined;
    };
    session.once('goaway', forget);
    session.once('close', () => {
      forget();
      sessions.delete(session);
    });
    opened.catch(forget);
    return opened;
  };

  return {
    authority,
    request: async (method, path, headers, options) => {
      if (isClosed) throw new ConnectError('The API is closing.', Code.Canceled);
      current ??= open();
      const session = await current;
      // It may have broken since, and says so by throwing.
      if (session.closed || session.destroyed) throw notReached(undefined);
      return session.request({ ...headers, ':method': method, ':path': path }, options);
    },
    notifyResponseByteRead: () => {},
    close: () => {
      isClosed = true;
      for (const session of sessions) {
        // With an error: Node ends streams without a word otherwise.
        session.destroy(new ConnectError('The API is closing.', Code.Canceled), constants.NGHTTP2_CANCEL);
      }
    },
  };
}

function notReached(cause: unknown): ConnectError {
  return new ConnectError('The connection broke.', Code.Unavailable, undefined, undefined, cause);
}
