import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { finish, stream, unary } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

let envd: Envd;
beforeEach(async () => {
  envd = await startEnvd();
}, 60_000);
afterEach(() => envd.stop());

const get = (path: string, headers: Record<string, string> = {}) => fetch(`${envd.url}${path}`, { headers });
const withToken = (token: string) => ({ 'X-Access-Token': token });

describe('GET /health', () => {
  it('answers 204 to anyone', async () => {
    await envd.init({ accessToken: 'secret' });
    const response = await get('/health');
    expect([response.status, await response.text()]).toEqual([204, '']);
  });
});

describe('POST /init', () => {
  it('sets the environment of all processes, and adds to it', async () => {
    expect((await envd.init({ envVars: { A: '1', B: '2' } })).status).toBe(204);
    expect((await envd.init({ envVars: { B: '3' } })).status).toBe(204);
    expect(await (await get('/envs')).json()).toEqual({ A: '1', B: '3' });
  });

  it('forgets the environment that was there when asked to, and only then', async () => {
    await envd.init({ envVars: { A: '1', B: '2' } });
    await envd.init({ replaceEnvs: false, envVars: { C: '3' } });
    expect(await (await get('/envs')).json()).toEqual({ A: '1', B: '2', C: '3' });
    expect((await envd.init({ replaceEnvs: true, envVars: { B: '4' } })).status).toBe(204);
    expect(await (await get('/envs')).json()).toEqual({ B: '4' });
    expect((await envd.init({ replaceEnvs: 'yes', envVars: { B: '5' } })).status).toBe(400);
    expect((await envd.init({ replaceEnvs: true })).status).toBe(204);
    expect(await (await get('/envs')).json()).toEqual({});
  });

  it('sets the token once, and takes another only from who knows it', async () => {
    expect((await envd.init({ accessToken: 'first' })).status).toBe(204);
    expect((await envd.init({ accessToken: 'first', envVars: { A: '1' } })).status).toBe(204);
    const refused = await envd.init({ accessToken: 'second', envVars: { A: '2' } });
    expect([refused.status, await refused.json()]).toEqual([
      401,
      { code: 401, message: 'access token validation failed' },
    ]);
    expect((await envd.init({})).status).toBe(401);
    expect(await (await get('/envs', withToken('first'))).json()).toEqual({ A: '1' });
    expect((await envd.init({ accessToken: 'second' }, withToken('first'))).status).toBe(204);
    expect((await get('/envs', withToken('first'))).status).toBe(401);
    expect((await get('/envs', withToken('second'))).status).toBe(200);
  });

  it('ignores what is older than what it has', async () => {
    await envd.init({ timestamp: '2030-01-01T00:00:00.000000002Z', envVars: { A: 'new' } });
    for (const timestamp of ['2030-01-01T00:00:00.000000001Z', '2030-01-01T00:00:00.000000002Z']) {
      expect((await envd.init({ timestamp, envVars: { A: 'old' } })).status).toBe(204);
    }
    expect(await (await get('/envs')).json()).toEqual({ A: 'new' });
  });

  it('leaves the clock of this machine alone', async () => {
    const before = Date.now();
    await envd.init({ timestamp: '2001-01-01T00:00:00Z' });
    expect(Date.now()).toBeGreaterThanOrEqual(before);
  });

  it('passes over the fields of other hosts, and an empty body', async () => {
    expect((await envd.init({ hyperloopIP: '10.0.0.1', volumeMounts: [], lifecycleID: 'x' })).status).toBe(
      204,
    );
    expect((await fetch(`${envd.url}/init`, { method: 'POST' })).status).toBe(204);
  });

  it.each([
    ['{', 400],
    ['[]', 400],
    ['{"envVars":{"A":1}}', 400],
    ['{"envVars":{"A=B":"1"}}', 400],
    ['{"accessToken":7}', 400],
    ['{"timestamp":"yesterday"}', 400],
    [JSON.stringify({ envVars: { A: 'x'.repeat(2 ** 20) } }), 413],
  ])('refuses what it cannot apply, %#', async (body, status) => {
    const response = await fetch(`${envd.url}/init`, { method: 'POST', body });
    expect(response.status).toBe(status);
    expect(await response.json()).toEqual({ code: status, message: expect.any(String) });
    expect(await (await get('/envs')).json()).toEqual({});
  });

  it('sets the default user and working directory', async () => {
    await envd.init({ defaultUser: 'nobody', defaultWorkdir: '/tmp' });
    const start = { process: { cmd: '/bin/sh', args: ['-c', 'pwd; echo $USER'] }, stdin: false };
    const { stdout, error } = await finish(await stream(envd.url, 'process.Process/Start', start));
    if (process.getuid?.() === 0) expect(stdout).toBe('/tmp\nnobody\n');
    else expect(error).toMatchObject({ code: 'permission_denied' });
  });
});

describe('the access token', () => {
  it('guards everything but what authenticates itself', async () => {
    await envd.init({ accessToken: 'secret' });
    const bodies = {
      '/envs': 'GET',
      '/metrics': 'GET',
      '/files/compose': 'POST',
      '/process.Process/List': 'POST',
    };
    for (const [path, method] of Object.entries(bodies)) {
      for (const headers of [{}, withToken('wrong'), withToken('')] as Record<string, string>[]) {
        const response = await fetch(`${envd.url}${path}`, { method, headers });
        expect([path, response.status]).toEqual([path, 401]);
        expect(await response.json()).toMatchObject({ code: 401 });
      }
    }
    const listed = await unary(envd.url, 'process.Process/List', {}, { headers: withToken('secret') });
    expect(listed.status).toBe(200);
  });
});

describe('GET /metrics', () => {
  it('has the fields that hosts read', async () => {
    const metrics = (await (await get('/metrics')).json()) as Record<string, number>;
    for (const field of [
      'ts',
      'cpu_count',
      'mem_total',
      'mem_used',
      'mem_cache',
      'mem_total_mib',
      'mem_used_mib',
      'disk_used',
      'disk_total',
    ]) {
      expect([field, metrics[field]]).toEqual([field, expect.any(Number)]);
      expect(metrics[field]).toBeGreaterThan(0);
    }
    expect(metrics.cpu_used_pct).toBeGreaterThanOrEqual(0);
    expect(metrics.cpu_used_pct).toBeLessThanOrEqual(100);
    expect(metrics.mem_used).toBeLessThan(Number(metrics.mem_total));
  });
});

it('answers what it does not know with 404, 405 and 415', async () => {
  expect((await get('/nothing')).status).toBe(404);
  expect((await get('/process.Process/List')).status).toBe(405);
  const wrongType = await fetch(`${envd.url}/process.Process/List`, { method: 'POST', body: 'x' });
  expect(wrongType.status).toBe(415);
});

describe('GET /logs', () => {
  it('tells those who know the token which processes there were, and nothing to a clone', async () => {
    await envd.init({ accessToken: 'secret' });
    expect((await get('/logs')).status).toBe(401);
    const asked = { process: { cmd: '/bin/sh', args: ['-c', 'exit 3'] } };
    const ran = await stream(envd.url, 'process.Process/Start', asked, { headers: withToken('secret') });
    expect((await finish(ran)).error).toBeUndefined();
    const read = async () => (await get('/logs', withToken('secret'))).json();
    const about = (event: string) => ({
      atMs: expect.any(Number),
      message: expect.any(String),
      fields: { event, pid: expect.any(String) },
    });
    const { entries } = (await read()) as { entries: { message: string }[] };
    expect(entries).toEqual([about('process_start'), about('process_end')]);
    expect(entries.map(({ message }) => message.replace(/\d+ /, ''))).toEqual([
      'process started: /bin/sh -c exit 3',
      'process ended: exit status 3',
    ]);
    await envd.init({ accessToken: 'secret', replaceEnvs: true });
    expect(await read()).toEqual({ entries: [] });
  });
});

describe('pages of other origins', () => {
  const from = { Origin: 'https://example.com' };
  const allowed = (response: Response) => response.headers.get('Access-Control-Allow-Origin');

  it('are told before a request that it is allowed, without the token', async () => {
    await envd.init({ accessToken: 'secret' });
    for (const path of ['/files?path=x', '/process.Process/Start', '/health', '/nothing']) {
      const wanted = 'authorization,connect-protocol-version,content-type,x-access-token';
      const response = await fetch(`${envd.url}${path}`, {
        method: 'OPTIONS',
        headers: {
          ...from,
          'Access-Control-Request-Method': 'POST',
          'Access-Control-Request-Headers': wanted,
        },
      });
      expect([response.status, allowed(response)]).toEqual([204, '*']);
      expect(response.headers.get('Access-Control-Allow-Methods')).toContain('POST');
      expect(response.headers.get('Access-Control-Allow-Headers')).toBe(wanted);
      expect(response.headers.get('Access-Control-Max-Age')).toBe('7200');
    }
  });

  it('may read answers of all kinds, errors and streams too', async () => {
    const start = { process: { cmd: '/bin/true' }, stdin: false };
    const list = { method: 'POST', headers: { ...from, 'Content-Type': 'application/json' }, body: '{}' };
    const answers = [
      await get('/health', from),
      await get('/files?path=/etc/hostname', from),
      await get('/files?path=/etc/hostname', { ...from, Range: 'bytes=0-0' }),
      await get('/files?path=/etc/nothing', from),
      await fetch(`${envd.url}/process.Process/List`, list),
      await stream(envd.url, 'process.Process/Start', start, { headers: from }),
      await envd.init({ accessToken: 'secret' }, from),
      await get('/files?path=/etc/hostname', from),
      await fetch(`${envd.url}/process.Process/List`, list),
    ];
    expect(answers.map(({ status }) => status)).toEqual([204, 200, 206, 404, 200, 200, 204, 401, 401]);
    expect(answers.map(allowed)).toEqual(answers.map(() => '*'));
    for (const answer of answers) {
      expect(answer.headers.get('Access-Control-Expose-Headers')).toBe('*');
      await answer.body?.cancel();
    }
  });
});
