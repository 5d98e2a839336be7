/** What a Start request asks for, checked: which file to run, where, and as whom. */
import { accessSync, constants, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import type { ProcessConfig, StartRequest } from '@wrenn/protocol/process';
import type { EnvdContext } from '../context.ts';
import { resolvePath } from '../context.ts';
import { errnoCode } from '../sys/errno.ts';
import type { PtySize } from '../sys/pty.ts';
import type { User } from '../sys/users.ts';
import { buildEnvironment } from './environment.ts';

export interface Command {
  /** What was asked for, as List shows it. */
  readonly config: ProcessConfig;
  readonly user: User;
  /** As the request has it: the process's argv[0], and the word in error messages. */
  readonly name: string;
  readonly file: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly environment: Record<string, string>;
  readonly pty: PtySize | undefined;
  readonly openStdin: boolean;
}

/** Sizes of a terminal are 16 bits wide in the kernel. */
const PTY_MAX = 0xffff;

export function toCommand(request: StartRequest, user: User, context: EnvdContext): Command {
  const config = request.process;
  if (config === undefined || config.cmd === '') throw invalid('no command was given');
  const { cmd: name, args, envs } = config;
  if ([name, ...args].some((word) => word.includes('\0'))) {
    throw invalid('the command or an argument contains a NUL byte');
  }
  const cwd = resolvePath(config.cwd ?? '', user, context.settings.defaultWorkdir);
  checkDirectory(cwd);
  const environment = buildEnvironment({
    user,
    ownPath: process.env.PATH,
    global: context.settings.globalEnv,
    request: envs,
    terminal: request.pty !== undefined,
  });
  return {
    config,
    user,
    name,
    file: findExecutable(name, cwd, environment.PATH ?? ''),
    args,
    cwd,
    environment,
    pty: request.pty === undefined ? undefined : toPtySize(request.pty.size),
    openStdin: request.stdin ?? true,
  };
}

export function toPtySize(size: PtySize | undefined): PtySize {
  const { cols, rows } = size ?? { cols: 80, rows: 24 };
  if (cols > PTY_MAX || rows > PTY_MAX) throw invalid(`a terminal has at most ${PTY_MAX} columns and rows`);
  return { cols, rows };
}

function checkDirectory(path: string): void {
  try {
    if (statSync(path).isDirectory()) return;
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') throw invalid(`cwd '${path}' does not exist`);
    throw invalid(`cwd '${path}' cannot be used: ${errnoCode(error)}`);
  }
  throw invalid(`cwd '${path}' is not a directory`);
}

/** A name with a slash is a path from the working directory, any other one is looked up in PATH. */
export function findExecutable(name: string, cwd: string, path: string): string {
  if (name.includes('/')) {
    const file = resolve(cwd, name);
    const problem = executableProblem(file);
    if (problem !== undefined) throw startFailed(name, `exec: ${JSON.stringify(name)}: ${problem}`);
    return file;
  }
  for (const directory of path.split(':')) {
    const file = resolve(cwd, directory, name);
    if (executableProblem(file) === undefined) return file;
  }
  throw startFailed(name, `exec: ${JSON.stringify(name)}: executable file not found in $PATH`);
}

function executableProblem(file: string): string | undefined {
  try {
    if (statSync(file).isDirectory()) return 'is a directory';
    accessSync(file, constants.X_OK);
    return undefined;
  } catch (error) {
    return errnoCode(error) === 'EACCES' ? 'permission denied' : 'no such file or directory';
  }
}

export function startFailed(name: string, reason: string, code = Code.InvalidArgument): ConnectError {
  return new ConnectError(`error starting process '${name}': ${reason}`, code);
}

function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}
