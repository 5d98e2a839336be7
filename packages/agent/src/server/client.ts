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
  return {
    agent: createClient(AgentService, transport),
    sandboxes: createClient(SandboxService, transport),
    guest: createClient(GuestService, transport),
    close: () => sessionManager.abort(),
  };
}
