/** The scripts that set a clone up, in a clone of our own that has next to nothing in it. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

let clone = '';
beforeEach(() => {
  clone = mkdtempSync(join(tmpdir(), 'wrenn-clone-'));
  mkdirSync(join(clone, 'scripts'));
  for (const name of ['lib.mjs', 'build.mjs', 'bootstrap.mjs']) {
    copyFileSync(join(ROOT, 'scripts', name), join(clone, 'scripts', name));
  }
  write('package-lock.json', '{}');
});
afterEach(() => rmSync(clone, { recursive: true }));

describe('bootstrap', () => {
  /** A program of the PATH that writes down how it is called. */
  const program = (name: string, script: string) => {
    write(`bin/${name}`, `#!/bin/sh\necho "${name} $*" >> ${clone}/calls\n${script}\n`);
    chmodSync(join(clone, 'bin', name), 0o755);
  };
  const bootstrap = () =>
    spawnSync(
      process.execPath,
      ['-e', `import('${clone}/scripts/bootstrap.mjs').then((it) => it.bootstrap({ templates: ['base'] }))`],
      { env: { PATH: `${clone}/bin:${process.env.PATH}`, NODE_ENV: 'production' }, encoding: 'utf8' },
    );
  const calls = () => readFileSync(join(clone, 'calls'), 'utf8').trim().split('\n');

  beforeEach(() => {
    mkdirSync(join(clone, 'node_modules'));
    // Neither a build nor a set-up.
    write('scripts/build.mjs', '');
    write('packages/cli/bin/wrenn.mjs', '');
    program('sudo', '');
  });

  it('gets what the build needs also where everything else is for production, and once', () => {
    program('npm', '');
    expect(bootstrap()).toMatchObject({ status: 0 });
    expect(bootstrap()).toMatchObject({ status: 0 });
    const [npm, ...others] = calls().filter((call) => call.startsWith('npm '));
    expect(npm?.split(' ')).toEqual(expect.arrayContaining(['ci', '--include=dev', '--ignore-scripts']));
    expect(others).toEqual([]);
  });

  it('gets it again where that failed', () => {
    program('npm', 'exit 3');
    expect(bootstrap()).toMatchObject({ status: 3 });
    expect(bootstrap()).toMatchObject({ status: 3 });
    expect(calls()).toHaveLength(2);
  });
});

describe('build', () => {
  const build = (...nodeWords: string[]) => {
    const { status, stderr } = spawnSync(process.execPath, [...nodeWords, 'scripts/build.mjs'], {
      cwd: clone,
      encoding: 'utf8',
    });
    return { status, isBuilt: stderr.includes('build: done'), stderr };
  };
  const run = () =>
    spawnSync(process.execPath, [join(clone, 'packages/cli/dist/main.js')], { encoding: 'utf8' }).stdout;

  beforeEach(() => {
    symlinkSync(join(ROOT, 'node_modules'), join(clone, 'node_modules'));
    write('packages/cli/src/main.ts', "console.log(await import('./one.ts'));");
    write('packages/cli/src/one.ts', 'export const one: number = 1;');
  });

  it('is done once, and again after a change', () => {
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 1');
    expect(build()).toMatchObject({ status: 0, isBuilt: false });
    write('packages/cli/src/one.ts', 'export const one: number = 2;');
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 2');
    expect(readdirSync(join(clone, 'packages/cli'))).toEqual(['dist', 'src']);
  });

  it('is done again for what changed while it was done', () => {
    const script = join(clone, 'scripts/build.mjs');
    const change =
      "writeFileSync(join(ROOT, 'packages/cli/src/one.ts'), 'export const one: number = 3;');\n  publish(outdir";
    const changing = readFileSync(script, 'utf8').replace('publish(outdir', change);
    writeFileSync(script, changing.replace('import { existsSync,', 'import { writeFileSync, existsSync,'));
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 1');
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 3');
  });

  it('that fails leaves the last one as it was', () => {
    build();
    write('packages/cli/src/one.ts', 'export const one = ;');
    expect(build()).toMatchObject({ status: 1, isBuilt: false });
    expect(run()).toContain('one: 1');
    // It counts as old still.
    expect(build()).toMatchObject({ status: 1, isBuilt: false });
  });

  it('that was ended in the middle is neither used nor left behind', () => {
    const { pid } = spawnSync('true');
    const unfinished = join(clone, `packages/cli/dist.${pid}`);
    write(`packages/cli/dist.${pid}/main.js`, 'throw new Error();');
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 1');
    expect(existsSync(unfinished)).toBe(false);
  });

  /** What is done before a build is given its name, each time that this is tried. */
  const beforeNaming = (script: string) => {
    write(
      'before-naming.mjs',
      `import { spawnSync } from 'node:child_process';
       import fs from 'node:fs';
       import { syncBuiltinESMExports } from 'node:module';
       const { renameSync } = fs;
       let tries = 0;
       fs.renameSync = (from, to) => {
         if (to.endsWith('/dist')) { tries += 1; ${script} }
         renameSync(from, to);
       };
       syncBuiltinESMExports();`,
    );
    return ['--import', join(clone, 'before-naming.mjs')];
  };
  const expectOneBuild = () => {
    expect(readdirSync(join(clone, 'packages/cli'))).toEqual(['dist', 'src']);
    expect(build()).toMatchObject({ status: 0, isBuilt: false });
  };

  it('takes the place of others that end at the same moment', () => {
    const others = beforeNaming(`if (tries <= 3) {
      fs.mkdirSync(to);
      fs.writeFileSync(to + '/main.js', 'throw new Error();');
      fs.utimesSync(to + '/main.js', 1, 1);
    }`);
    expect(build(...others)).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 1');
    expectOneBuild();
  });

  it('leaves the place to one that began later and has ended before', () => {
    const later = beforeNaming(`if (tries === 1) {
      fs.writeFileSync('packages/cli/src/one.ts', 'export const one: number = 2;');
      spawnSync(process.execPath, ['scripts/build.mjs']);
    }`);
    expect(build(...later)).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 2');
    expectOneBuild();
  });

  it('goes on where another one makes room while it looks', () => {
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    write('packages/cli/src/one.ts', 'export const one: number = 2;');
    write(
      'while-looking.mjs',
      `import fs from 'node:fs';
       import { syncBuiltinESMExports } from 'node:module';
       const { statSync } = fs;
       fs.statSync = (path, options) => {
         if (path.endsWith('/dist/main.js')) fs.rmSync('packages/cli/dist', { recursive: true, force: true });
         return statSync(path, options);
       };
       syncBuiltinESMExports();`,
    );
    const looking = build('--import', join(clone, 'while-looking.mjs'));
    expect(looking).toMatchObject({ status: 0, isBuilt: true });
    expect(run()).toContain('one: 2');
    expectOneBuild();
  });

  it('is not done again for what builds do around them', () => {
    expect(build()).toMatchObject({ status: 0, isBuilt: true });
    const soon = new Date(Date.now() + 60_000);
    utimesSync(join(clone, 'packages/cli'), soon, soon);
    expect(build()).toMatchObject({ status: 0, isBuilt: false });
  });

  it('may be done by many at once', async () => {
    const builds = Array.from({ length: 6 }, () => {
      const child = spawn(process.execPath, ['scripts/build.mjs', '--force'], {
        cwd: clone,
        stdio: 'ignore',
      });
      return once(child, 'exit');
    });
    expect((await Promise.all(builds)).map(([code]) => code)).toEqual(builds.map(() => 0));
    expect(run()).toContain('one: 1');
    expectOneBuild();
  });
});

function write(path: string, text: string): void {
  mkdirSync(dirname(join(clone, path)), { recursive: true });
  writeFileSync(join(clone, path), text);
}
