/** Typed clients of the agent's API, for the CLI and for tests. */
import { connect } from 'node:net';
import { type Client, createClient } from '@connectrpc/connect';
import { createConnectTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { AgentService, GuestService, SandboxService } from '@wrenn/protocol/agent';

export interface AgentClient {
  readonly agent: Client<typeof AgentService>;
  readonly sandboxes: Client<typeof SandboxService>;
  readonly guest: Client<typeof GuestService>;
  /** Ends the connection and every call on it. Idempotent. */
  close(): void;
}

export interface AgentClientOptions {
  readonly socketPath: string;
}

/** What the client believes to call; the connection itself always goes to the unix socket. */
const BASE_URL = 'http://agent.wrenn.internal';
const ANSWER_MAX_BYTES = 64 * 1024 * 1024;

/** Connects with the first call. What calls throw, `fromConnectError` makes a WrennError of. */
export function createAgentClient({ socketPath }: AgentClientOptions): AgentClient {
  const sessionManager = new Http2SessionManager(
    BASE_URL,
    {},
    { createConnection: () => connect({ path: socketPath }) },
  );
  const transport = createConnectTransport({
    httpVersion: '2',
    baseUrl: BASE_URL,
    sessionManager,
    acceptCompression: [],
    readMaxBytes: ANSWER_MAX_BYTES,
  });
  const guest = createClient(GuestService, transport);
  return {
    agent: createClient(AgentService, transport),
    sandboxes: createClient(SandboxService, transport),
    guest: { ...guest, exec: endingWithTheCommand(guest.exec) },
    close: () => sessionManager.abort(),
  };
}

type Exec = Client<typeof GuestService>['exec'];

/**
 * Ends the request as soon as the command has ended, whatever its input does: Connect itself would leave the
 * request open, and the connection's streams would run out.
 */
function endingWithTheCommand(exec: Exec): Exec {
  return (requests, options) => {
    const ended = new AbortController();
    const answers = exec(untilAborted(requests, ended.signal), options);
    return (async function* () {
      try {
        for await (const answer of answers) {
          if (answer.message.case === 'exited') ended.abort();
          yield answer;
        }
      } finally {
        ended.abort();
      }
    })();
  };
}

/** The items until the signal aborts, without waiting for the one that is due then. */
async function* untilAborted<T>(items: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  const iterator = items[Symbol.asyncIterator]();
  let wake = (): void => {};
  signal.addEventListener('abort', () => wake(), { once: true });
  const whenAborted = { done: true, value: undefined } as const;
  try {
    while (!signal.aborted) {
      const next = await new Promise<IteratorResult<T, unknown>>((resolve, reject) => {
        wake = () => resolve(whenAborted);
        iterator.next().then(resolve, reject);
      });
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    // Not waited for: its source may be a terminal on which nobody types.
    iterator.return?.().catch(() => {});
  }
}
