/** sandbox.git, against a repository in the guest. */
import { expect, it } from 'vitest';
import type { Context } from './context.ts';

const REMOTE = '/tmp/git/remote.git';
const WORK = '/tmp/git/work';

export function gitCases(context: Context): void {
  it.runIf(context.has('git#init'))('makes a repository, configures it and commits', async () => {
    const { git, files } = context.sandbox;
    await git.configureUser('Global', 'global@example.org');
    await git.setConfig('init.defaultBranch', 'main');
    expect(await git.getConfig('user.name')).toBe('Global');
    expect(await git.getConfig('no.such')).toBeUndefined();
    await git.init(REMOTE, { bare: true, initialBranch: 'main' });
    await git.init(WORK, { initialBranch: 'main' });
    await git.setConfig('user.name', 'Local', { scope: 'local', path: WORK });
    await files.write(`${WORK}/file`, 'one\n');
    expect(await git.status(WORK)).toMatchObject({ isClean: false, hasUntracked: true, untrackedCount: 1 });
    await git.add(WORK, { files: ['file'] });
    expect(await git.status(WORK)).toMatchObject({ hasStaged: true, stagedCount: 1 });
    await git.commit(WORK, 'First', { authorName: 'A', authorEmail: 'a@example.org' });
    expect(await git.status(WORK)).toMatchObject({ isClean: true, currentBranch: 'main' });
  });

  it.runIf(context.has('git#init'))('goes between branches, and back', async () => {
    const { git, files } = context.sandbox;
    await git.createBranch(WORK, 'side');
    await files.write(`${WORK}/file`, 'two\n');
    await git.restore(WORK, { paths: ['file'] });
    expect(await files.read(`${WORK}/file`)).toBe('one\n');
    await files.write(`${WORK}/file`, 'three\n');
    await git.add(WORK);
    await git.reset(WORK, { mode: 'hard', target: 'HEAD' });
    expect(await files.read(`${WORK}/file`)).toBe('one\n');
    await git.checkoutBranch(WORK, 'main');
    expect(await git.branches(WORK)).toEqual({ branches: ['main', 'side'], currentBranch: 'main' });
    await git.deleteBranch(WORK, 'side', { force: true });
    expect((await git.branches(WORK)).branches).toEqual(['main']);
  });

  it.runIf(context.has('git#init'))('pushes, clones and pulls', async () => {
    const { sdk } = context;
    const { git, files } = context.sandbox;
    await expect(git.pull(WORK)).rejects.toBeInstanceOf(sdk.GitUpstreamError);
    await git.remoteAdd(WORK, 'origin', '/tmp/git/elsewhere');
    await git.remoteAdd(WORK, 'origin', REMOTE, { overwrite: true });
    expect(await git.remoteGet(WORK, 'origin')).toBe(REMOTE);
    await git.push(WORK, { remote: 'origin', branch: 'main' });
    const clone = '/tmp/git/clone';
    await git.clone(REMOTE, { path: clone, branch: 'main', depth: 1 });
    expect(await files.read(`${clone}/file`)).toBe('one\n');
    await files.write(`${WORK}/file`, 'four\n');
    await git.add(WORK);
    await git.commit(WORK, 'Second');
    await git.push(WORK);
    await git.pull(clone);
    expect(await files.read(`${clone}/file`)).toBe('four\n');
  });

  it.runIf(context.has('git#dangerouslyAuthenticate'))(
    'keeps credentials where it is told to, and says what a remote refuses',
    async () => {
      const { sdk } = context;
      const { git, files } = context.sandbox;
      await git.dangerouslyAuthenticate({ username: 'me', password: 'token', host: 'git.test' });
      expect(await files.read('/home/user/.git-credentials')).toBe('https://me:token@git.test\n');
      const nowhere = git.clone('/tmp/git/nowhere', { path: '/tmp/git/none' });
      await expect(nowhere).rejects.toBeInstanceOf(sdk.CommandExitError);
    },
  );
}
