import { describe, expect, it } from 'vitest';
import { parseFlags } from './flags.ts';

describe('parseFlags', () => {
  it('has defaults that never touch the machine', () => {
    expect(parseFlags([])).toEqual({
      host: '0.0.0.0',
      port: 49983,
      exposeHost: '169.254.0.21',
      defaultUser: 'user',
      setClock: false,
      ownMachine: false,
    });
  });
  it('reads every flag', () => {
    const args = ['--set-clock', '--own-machine', '--host', '::', '--port', '0', '--default-user', 'root'];
    expect(parseFlags(args)).toEqual({
      host: '::',
      port: 0,
      exposeHost: '169.254.0.21',
      defaultUser: 'root',
      setClock: true,
      ownMachine: true,
    });
  });
  it.each([
    [['--port', '65536'], '65536 is not a port'],
    [['--port', '-1'], '-1 is not a port'],
    [['--port'], '--port needs a value'],
    [['--nonsense', 'x'], 'there is no flag --nonsense'],
  ])('refuses %j', (args, problem) => {
    expect(parseFlags(args)).toBe(problem);
  });
});
