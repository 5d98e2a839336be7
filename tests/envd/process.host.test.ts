import { readFileSync } from 'node:fs';
import { create, toBinary } from '@bufbuild/protobuf';
import { StartRequestSchema, StartResponseSchema } from '@wrenn/protocol/process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { binaryMessages, envelope, finish, frames, stream, unary } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

const START = 'process.Process/Start';
const CONNECT = 'process.Process/Connect';

let envd: Envd;
beforeAll(async () => {
  envd = await startEnvd();
}, 60_000);
afterAll(() => envd.stop());

const shell = (script: string, more: Record<string, unknown> = {}) => ({
  process: { cmd: '/bin/sh', args: ['-c', script], ...more },
});

function run(script: string, more: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  return stream(envd.url, START, { ...shell(script, more), stdin: false }, { headers }).then(finish);
}

/** A line for the process that reads it, and goes on then and not before. */
function sendLine(tag: string) {
  const input = { stdin: Buffer.from('go\n').toString('base64') };
  return unary(envd.url, 'process.Process/SendInput', { process: { tag }, input });
}

describe('Start', () => {
  it('sends start, data and end, in this order', async () => {
    const result = await run('echo out; echo err >&2');
    expect(result).toMatchObject({ order: ['start', 'data', 'end'], stdout: 'out\n', stderr: 'err\n' });
    expect(result.end).toEqual({ exited: true, status: 'exit status 0' });
    expect(result.error).toBeUndefined();
  });

  it('tells exit codes and signals apart', async () => {
    expect((await run('exit 7')).end).toEqual({
      exitCode: 7,
      exited: true,
      status: 'exit status 7',
      error: 'exit status 7',
    });
    expect((await run('kill -KILL $$')).end).toEqual({
      exitCode: -1,
      status: 'signal: killed',
      error: 'signal: killed',
    });
    expect((await run('kill -TERM $$')).end).toMatchObject({ status: 'signal: terminated' });
  });

  it('speaks binary as well', async () => {
    const message = create(StartRequestSchema, {
      process: { cmd: '/bin/echo', args: ['hi'] },
      stdin: false,
    });
    const response = await fetch(`${envd.url}/${START}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/connect+proto' },
      body: envelope(toBinary(StartRequestSchema, message)),
    });
    expect(response.headers.get('Content-Type')).toBe('application/connect+proto');
    const events = [];
    for await (const { event } of binaryMessages(response, StartResponseSchema)) events.push(event?.event);
    expect(events.map((event) => event?.case)).toEqual(['start', 'data', 'end']);
    const data = events[1];
    if (data?.case !== 'data' || data.value.output.case !== 'stdout') throw new Error('no output');
    expect(new TextDecoder().decode(data.value.output.value)).toBe('hi\n');
  });

  it('sends each piece of output at once', async () => {
    const response = await stream(envd.url, START, { ...shell('echo first; read go'), tag: 'waits' });
    const result = await finish(response, async (kind) => kind === 'data' && sendLine('waits'));
    expect(result).toMatchObject({ order: ['start', 'data', 'end'], stdout: 'first\n' });
  });

  it('layers the environment: defaults, then /init, then the request', async () => {
    await envd.init({ envVars: { LAYER: 'global', ONLY_GLOBAL: '1', HOME: '/global' } });
    const { stdout } = await run('echo $LAYER $ONLY_GLOBAL $HOME $USER $LOGNAME; env | grep -c BUN_', {
      envs: { LAYER: 'request', USER: 'me' },
    });
    expect(stdout).toMatch(/^request 1 \/global me \w+\n0\n$/);
  });

  it('gives a process its own session, no descriptor but three, and no blocked signal', async () => {
    const { stdout, pid } = await run(
      'cut -d" " -f5,6 /proc/$$/stat; ls /proc/$$/fd; grep -E "SigBlk|SigIgn" /proc/self/status',
    );
    expect(stdout.split('\n')[0]).toBe(`${pid} ${pid}`);
    expect(stdout).toContain('\n0\n1\n2\nSig');
    expect(stdout.match(/Sig(Blk|Ign):\t0{16}/g)).toHaveLength(2);
  });

  it('lets /dev/stdout and /dev/stderr be opened', async () => {
    expect(await run('echo a > /dev/stdout; echo b > /dev/stderr')).toMatchObject({
      stdout: 'a\n',
      stderr: 'b\n',
    });
  });

  it('gives an end of file at once where stdin is off, and waits where it is on', async () => {
    expect(await run('cat; echo eof')).toMatchObject({ stdout: 'eof\n' });
    const response = await stream(envd.url, START, { ...shell('cat; echo eof'), tag: 'reader' });
    const finished = finish(response);
    const process = { tag: 'reader' };
    const input = Buffer.from('typed\n').toString('base64');
    await unary(envd.url, 'process.Process/SendInput', { process, input: { stdin: input } });
    expect((await unary(envd.url, 'process.Process/CloseStdin', { process })).status).toBe(200);
    expect(await finished).toMatchObject({ stdout: 'typed\neof\n' });
  });

  it.each([
    [{ cmd: '' }, 'invalid_argument', /no command/],
    [
      { cmd: 'no-such-program' },
      'invalid_argument',
      /exec: "no-such-program": executable file not found in \$PATH/,
    ],
    [{ cmd: '/etc/passwd' }, 'invalid_argument', /permission denied/],
    [{ cmd: '/bin/true', cwd: '/no/such/dir' }, 'invalid_argument', /cwd '\/no\/such\/dir' does not exist/],
    [{ cmd: '/bin/true', cwd: '/etc/passwd' }, 'invalid_argument', /not a directory/],
    [{ cmd: '/bin/true', args: ['a\0b'] }, 'invalid_argument', /NUL/],
    [{ cmd: '/bin/true', envs: { 'A=B': '' } }, 'invalid_argument', /contains '='/],
    [{ cmd: '/bin/true', args: ['x'.repeat(200_000)] }, 'invalid_argument', /E2BIG/],
  ])('refuses what cannot be run, %#', async (process, code, message) => {
    const { error, order } = await finish(await stream(envd.url, START, { process, stdin: false }));
    expect(order).toEqual([]);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('refuses an unknown user and an unreadable one', async () => {
    const headers = { Authorization: `Basic ${btoa('nonesuch:')}` };
    expect((await run('true', {}, headers)).error).toEqual({
      code: 'unauthenticated',
      message: "invalid username: 'nonesuch'",
    });
  });

  it('lives on after messages that are none', async () => {
    for (const body of [
      envelope(new Uint8Array([1, 2, 3])),
      new Uint8Array([0, 255, 255, 255, 255]),
      new Uint8Array(3),
    ]) {
      const response = await fetch(`${envd.url}/${START}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/connect+proto' },
        body,
      });
      expect((await finish(response)).error?.code).toMatch(/invalid_argument|resource_exhausted/);
    }
    const junk = await fetch(`${envd.url}/process.Process/List`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: '{"',
    });
    expect(junk.status).toBe(400);
    expect((await run('echo alive')).stdout).toBe('alive\n');
  });
});

describe('deadline', () => {
  it('kills the process and everything in its group', async () => {
    const result = await run('sleep 60 & echo $!; wait', {}, { 'Connect-Timeout-Ms': '2000' });
    expect(result.error).toMatchObject({ code: 'deadline_exceeded' });
    await expect.poll(() => isAlive(result.pid) || isAlive(Number(result.stdout))).toBe(false);
    const late = await finish(await stream(envd.url, CONNECT, { process: { pid: result.pid } }));
    expect(late.end).toMatchObject({ status: 'signal: killed' });
  });

  it('is none when it is 0', async () => {
    expect(await run('sleep 0.3; echo done', {}, { 'Connect-Timeout-Ms': '0' })).toMatchObject({
      stdout: 'done\n',
    });
  });

  it('of Connect ends the stream alone', async () => {
    const started = await stream(envd.url, START, {
      ...shell('read go; echo over'),
      tag: 'lasting',
    });
    const finished = finish(started);
    const followed = await finish(
      await stream(
        envd.url,
        CONNECT,
        { process: { tag: 'lasting' } },
        { headers: { 'Connect-Timeout-Ms': '200' } },
      ),
    );
    expect(followed.error).toMatchObject({ code: 'deadline_exceeded' });
    await sendLine('lasting');
    expect(await finished).toMatchObject({ stdout: 'over\n', end: { exited: true } });
  });
});

describe('leaving and coming back', () => {
  it('does not kill: output is dropped, the exit is kept', async () => {
    const leave = new AbortController();
    const response = await stream(
      envd.url,
      START,
      { ...shell('head -c 5000000 /dev/zero; sleep 0.5; exit 9'), stdin: false, tag: 'left' },
      { signal: leave.signal },
    );
    const first = await response.body?.getReader().read();
    expect(first?.value?.length).toBeGreaterThan(0);
    leave.abort();
    const back = await finish(await stream(envd.url, CONNECT, { process: { tag: 'left' } }));
    expect(back.order[0]).toBe('start');
    expect(back.end).toMatchObject({ exitCode: 9 });
    const later = await finish(await stream(envd.url, CONNECT, { process: { tag: 'left' } }));
    expect(later).toMatchObject({ order: ['start', 'end'], end: { exitCode: 9 } });
  });

  it('lets several follow one process', async () => {
    const started = await stream(envd.url, START, {
      ...shell('read go; echo all'),
      tag: 'shared',
    });
    const others = await Promise.all(
      [1, 2, 3].map(() => stream(envd.url, CONNECT, { process: { tag: 'shared' } })),
    );
    const finished = [started, ...others].map((response) => finish(response));
    await sendLine('shared');
    for (const result of await Promise.all(finished)) {
      expect(result).toMatchObject({ stdout: 'all\n', end: { exited: true } });
    }
  });

  it('answers not_found for what never ran', async () => {
    const { error } = await finish(await stream(envd.url, CONNECT, { process: { pid: 999_999_999 } }));
    expect(error).toMatchObject({ code: 'not_found' });
    for (const method of ['SendSignal', 'SendInput', 'CloseStdin', 'Update']) {
      const { status, body } = await unary(envd.url, `process.Process/${method}`, {
        process: { tag: 'nothing' },
      });
      expect([status, body.code]).toEqual([404, 'not_found']);
    }
  });

  it('sends keep-alives while a process is silent', async () => {
    const headers = { 'Keepalive-Ping-Interval': '1' };
    const response = await stream(envd.url, START, { ...shell('read go'), tag: 'silent' }, { headers });
    const { order } = await finish(response, async (kind) => kind === 'keepalive' && sendLine('silent'));
    expect(order).toEqual(['start', 'keepalive', 'end']);
  });
});

describe('SendSignal', () => {
  it('reaches the whole process group', async () => {
    const response = await stream(envd.url, START, {
      ...shell('sleep 60 & sleep 60; true'),
      stdin: false,
      tag: 'group',
    });
    const finished = finish(response);
    const request = { process: { tag: 'group' }, signal: 'SIGNAL_SIGKILL' };
    expect((await unary(envd.url, 'process.Process/SendSignal', request)).status).toBe(200);
    expect((await finished).end).toMatchObject({ exitCode: -1, status: 'signal: killed' });
    expect((await unary(envd.url, 'process.Process/SendSignal', request)).status).toBe(404);
  });

  it('ends a stream whose output an escaped descendant holds open', async () => {
    const script = `setsid sh -c 'echo $$; exec sleep 60' & wait`;
    const response = await stream(envd.url, START, { ...shell(script), stdin: false, tag: 'holder' });
    let signalledAt = 0;
    const result = await finish(response, async (kind) => {
      if (kind !== 'data') return;
      signalledAt = Date.now();
      const request = { process: { tag: 'holder' }, signal: 'SIGNAL_SIGTERM' };
      await unary(envd.url, 'process.Process/SendSignal', request);
    });
    expect(result.end).toMatchObject({ status: 'signal: terminated' });
    expect(Date.now() - signalledAt).toBeLessThan(15_000);
    // It did hold it open.
    process.kill(Number(result.stdout), 'SIGKILL');
  });
});

describe('terminals', () => {
  it('are controlling, sized, resizable, and take input', async () => {
    const script =
      'tty; stty size; read -r line; stty size; echo "got $line" > /dev/tty; echo rw >&0; exit 3';
    const response = await stream(envd.url, START, {
      ...shell(script),
      pty: { size: { cols: 90, rows: 30 } },
      tag: 'terminal',
    });
    let output = '';
    let end: unknown;
    let typed = false;
    for await (const { payload, flags } of frames(response.body)) {
      const { event } = JSON.parse(new TextDecoder().decode(payload));
      if ((flags & 2) !== 0) break;
      output += Buffer.from(event.data?.pty ?? '', 'base64').toString();
      end = event.end ?? end;
      if (!typed && output.includes('30 90')) {
        typed = true;
        const process = { tag: 'terminal' };
        await unary(envd.url, 'process.Process/Update', { process, pty: { size: { cols: 100, rows: 40 } } });
        const pty = Buffer.from('word\n').toString('base64');
        await unary(envd.url, 'process.Process/SendInput', { process, input: { pty } });
      }
    }
    expect(output).toMatch(/^\/dev\/pts\/\d+\r\n30 90\r\n/);
    expect(output).toContain('40 100\r\ngot word\r\nrw\r\n');
    expect(end).toMatchObject({ exitCode: 3, status: 'exit status 3' });
  });

  it('have no stdin to write to or to close', async () => {
    const response = await stream(envd.url, START, {
      ...shell('sleep 5'),
      pty: { size: { cols: 8, rows: 8 } },
      tag: 'tty2',
    });
    const process = { tag: 'tty2' };
    const input = { stdin: 'aGk=' };
    expect((await unary(envd.url, 'process.Process/SendInput', { process, input })).body.code).toBe(
      'failed_precondition',
    );
    expect((await unary(envd.url, 'process.Process/CloseStdin', { process })).body.code).toBe(
      'failed_precondition',
    );
    await unary(envd.url, 'process.Process/SendSignal', { process, signal: 'SIGNAL_SIGKILL' });
    expect((await finish(response)).end).toMatchObject({ status: 'signal: killed' });
  });
});

it('leaves no descriptor, no process and no zombie behind', async () => {
  await run('true');
  const before = envd.openFiles();
  for (let i = 0; i < 25; i++) await run('echo x');
  await Promise.all(Array.from({ length: 25 }, () => run('echo x')));
  await expect.poll(() => envd.openFiles()).toBeLessThanOrEqual(before);
  expect((await unary(envd.url, 'process.Process/List', {})).body).toEqual({});
  expect(envd.log()).not.toMatch(/failed/);
});

/** A zombie that nobody has reaped is not alive. */
function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
