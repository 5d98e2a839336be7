import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterAll, expect, it } from 'vitest';

const dir = mkdtempSync(join(tmpdir(), 'wrenn-spawn-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** In a process that has no descriptor left: the code of each failure, printed once it has some again. */
const PROGRAM = `
import { closeSync, openSync } from 'node:fs';
import { identify, isAlive, killProcess, runCommand, spawnPiped } from './index.ts';
const codes = [];
const note = (error) => codes.push(error.code);
const taken = [];
const self = await identify(process.pid);
try { for (;;) taken.push(openSync('/dev/null')); } catch (error) { note(error); }
try { spawnPiped('/bin/true', [], {}); } catch (error) { note(error); }
await runCommand('/bin/true', [], { timeoutMs: 1000 }).catch(note);
codes.push(await isAlive(self));
await killProcess(self, 'SIGCONT').catch(note);
for (const fd of taken) closeSync(fd);
await runCommand('/bin/true', [], { timeoutMs: 5000 });
console.log(codes.join(' '));
`;

it('without descriptors no program is started, and no process taken for gone, which takes nobody along', async () => {
  const { outputFiles } = await build({
    stdin: { contents: PROGRAM, resolveDir: import.meta.dirname },
    bundle: true,
    write: false,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
  });
  const file = join(dir, 'program.mjs');
  writeFileSync(file, outputFiles[0]?.contents ?? '');
  const { stdout } = await promisify(execFile)('prlimit', ['--nofile=64', process.execPath, file]);
  expect(stdout.trim()).toBe('EMFILE descriptors_exhausted descriptors_exhausted true EMFILE');
});
