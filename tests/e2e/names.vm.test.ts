/** Hosts that a sandbox may reach by their names, asked for in the guest, wherever the sandbox goes. */
import {
  addAddress,
  addDefaultRoute,
  addNetns,
  addVeth,
  createIp,
  createNetSysctl,
  deleteLink,
  deleteNetns,
  parseIpv4,
  processesOfUser,
  setLink,
} from '@wrenn/host';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Internet, startInternet } from '../../packages/agent/src/network/testing/internet.ts';
import {
  type AgentProcess,
  codeOf,
  createSandbox,
  exec,
  prepareAgent,
  remains,
  startAgentProcess,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const NUMBER = 14;
const WORLD = 'nameworld';
const LINK = 'nameworld0';
const [HERE, THERE, RESOLVER] = ['203.0.113.1', '203.0.113.10', '203.0.113.53'];
const GATEWAY_UID = 1_950_000_000 + NUMBER * 1000 - 2;
const DENY_ALL = ['0.0.0.0/0'];

let files: TestAgentFiles;
let agent: AgentProcess;
let internet: Internet;
const ip = createIp();

beforeAll(async () => {
  await ip.batch([
    addNetns(WORLD),
    addVeth({ link: LINK, peer: 'eth0', peerNetns: WORLD, mtu: 1500 }),
    addAddress(LINK, parseIpv4(HERE), 24),
    setLink(LINK, { up: true }),
  ]);
  const inside = [THERE, RESOLVER].map((address) => addAddress('eth0', parseIpv4(address), 24));
  await ip.batch(
    [setLink('lo', { up: true }), ...inside, setLink('eth0', { up: true }), addDefaultRoute(parseIpv4(HERE))],
    { netns: WORLD },
  );
  // Answers to what guests ask it directly.
  await createNetSysctl().write(['ipv4', 'conf', LINK, 'forwarding'], '1');
  internet = await startInternet(WORLD, RESOLVER, {
    'example.com': [THERE],
    'www.example.org': [THERE],
    'evil.example': [THERE],
  });
  files = await prepareAgent(NUMBER, {
    network: { nameservers: [RESOLVER], egress: { resolvers: [RESOLVER] } },
  });
  agent = await startAgentProcess(files);
});

afterAll(async () => {
  await agent?.kill('SIGTERM');
  await internet?.close();
  await ip.batch([deleteLink(LINK)]).catch(() => {});
  await ip.batch([deleteNetns(WORLD)]).catch(() => {});
  await files?.remove();
});

/** Asks each host over HTTP and over TLS, by its name, as programs do. */
const PROGRAM = `
import socket, ssl, sys, urllib.request, urllib.error
def http(host):
    try: return urllib.request.urlopen('http://' + host + '/', timeout=10).status
    except urllib.error.HTTPError as error: return error.code
    except Exception as error: return type(getattr(error, 'reason', error)).__name__
def tls(host):
    try:
        ssl.create_default_context().wrap_socket(socket.create_connection((host, 443), 10), server_hostname=host)
    # The server has no certificate and says so, which means that it was asked.
    except ssl.SSLError: return 'asked'
    except Exception as error: return type(error).__name__
def other(host):
    try: socket.create_connection((host, 8080), 10)
    except Exception as error: return type(error).__name__
for host in sys.argv[1:]: print(host, http(host), tls(host), other(host))`;

async function ask(id: string, ...hosts: string[]): Promise<string[]> {
  const { stdout, stderr } = await exec(agent.client, id, ['python3', '-c', PROGRAM, ...hosts]);
  expect(stderr).toBe('');
  return stdout.trim().split('\n');
}

const ALLOWED = ['example.com 200 asked OSError', 'evil.example 403 ConnectionResetError OSError'];

it('reaches hosts by name, and others when its rules change; copies, asleep and without an agent too', async () => {
  const { id } = await createSandbox(agent.client, {
    // With a Python that has HTTP and TLS.
    template: 'base',
    memoryMib: 512,
    network: { allowOut: ['example.com', '*.example.org'], denyOut: DENY_ALL },
  });
  expect(await ask(id, 'example.com', 'evil.example', 'www.example.org')).toEqual([
    ...ALLOWED,
    'www.example.org 200 asked OSError',
  ]);
  await expect
    .poll(() => internet.seen.filter((line) => line.startsWith('http')))
    .toEqual(['http example.com /', 'http www.example.org /']);

  await agent.kill('SIGKILL');
  agent = await startAgentProcess(files);
  expect(await ask(id, 'example.com', 'evil.example')).toEqual(ALLOWED);

  const { sandboxes } = await agent.client.sandboxes.forkSandbox({ id, count: 1 });
  const copy = sandboxes[0]?.id ?? '';
  await agent.client.sandboxes.hibernateSandbox({ id });
  expect(await ask(copy, 'example.com', 'evil.example')).toEqual(ALLOWED);
  await agent.client.sandboxes.resumeSandbox({ id });
  expect(await ask(id, 'example.com', 'evil.example')).toEqual(ALLOWED);

  await agent.client.sandboxes.updateSandboxNetwork({
    id,
    network: { allowInternetAccess: false, allowOut: ['evil.example'] },
  });
  expect(await ask(id, 'evil.example', 'example.com')).toEqual([
    'evil.example 200 asked OSError',
    'example.com 403 ConnectionResetError OSError',
  ]);
  expect(await ask(copy, 'evil.example')).toEqual([ALLOWED[1]]);
  for (const one of [id, copy]) await agent.client.sandboxes.destroySandbox({ id: one });
  expect(await remains(files)).toEqual([]);
});

it('takes no names without denying the rest, and none to deny', async () => {
  for (const network of [
    { allowOut: ['example.com'] },
    { allowOut: ['example.com'], denyOut: ['10.0.0.0/8'] },
    { allowOut: ['*'], denyOut: DENY_ALL },
    { denyOut: ['example.com'] },
  ]) {
    expect(await codeOf(createSandbox(agent.client, { network }))).toBe('invalid_argument');
  }
});

it('leaves no gateway behind when the agent is gone', async () => {
  expect(await processesOfUser(GATEWAY_UID)).toHaveLength(1);
  await agent.kill('SIGKILL');
  await until('the gateway ends', 30_000, async () => (await processesOfUser(GATEWAY_UID)).length === 0);
  agent = await startAgentProcess(files);
});
