import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createUsers, findUser, parseGroup, parsePasswd } from './users.ts';

const PASSWD = `root:x:0:0:root:/root:/bin/bash
# a comment
ada:x:1000:1001:Ada,,,:/home/ada:/bin/zsh
bare:x:1002:1002:::
broken:x:many:0::/:/bin/sh
huge:x:4294967295:0::/:/bin/sh
`;
const GROUP = `root:x:0:
staff:x:50:ada,bare
ada:x:1001:ada
docker:x:999:ada
broken:x::ada
`;

describe('accounts', () => {
  const accounts = parsePasswd(PASSWD);
  const groups = parseGroup(GROUP);

  it('are parsed, and junk is skipped', () => {
    expect(accounts.map(({ name }) => name)).toEqual(['root', 'ada', 'bare']);
    expect(accounts[2]).toEqual({ name: 'bare', uid: 1002, gid: 1002, home: '/', shell: '/bin/sh' });
    expect(groups.map(({ name }) => name)).toEqual(['root', 'staff', 'ada', 'docker']);
  });
  it('have their primary group first and no group twice', () => {
    expect(findUser('ada', accounts, groups)).toMatchObject({
      uid: 1000,
      gid: 1001,
      groups: [1001, 50, 999],
    });
    expect(findUser('nobody', accounts, groups)).toBeUndefined();
  });
});

describe('createUsers', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'wrenn-users-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('notices a user that is added later, and tells who does not exist', () => {
    const passwd = join(directory, 'passwd');
    writeFileSync(passwd, PASSWD);
    const users = createUsers(passwd, join(directory, 'missing'));
    expect(users.byName('ada').groups).toEqual([1001]);
    expect(users.userName(1000)).toBe('ada');
    expect(users.groupName(1001)).toBe('1001');
    expect(() => users.byName('eve')).toThrow(
      new ConnectError("invalid username: 'eve'", Code.Unauthenticated),
    );
    writeFileSync(passwd, `${PASSWD}eve:x:1003:1003::/home/eve:/bin/sh\n`);
    expect(users.byName('eve').uid).toBe(1003);
  });
});
