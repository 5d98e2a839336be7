/** The few things that are done with a hierarchy of control groups; a test puts a kernel of its own in their place. */
import { access, constants, mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';

export interface CgroupFiles {
  /** Undefined when there is no such file, or no longer. */
  read(path: string): Promise<string | undefined>;
  /** Fails as the kernel does, with `code` in the error; `ENOENT` where there is no such file. */
  write(path: string, value: string): Promise<void>;
  /** Whether groups can be made in this directory, as far as can be told without doing so. */
  mayChange(directory: string): Promise<boolean>;
  makeDirectory(path: string): Promise<void>;
  removeDirectory(path: string): Promise<void>;
  /** Names; none where there is no such directory. */
  directoriesIn(path: string): Promise<string[]>;
}

export function createCgroupFiles(): CgroupFiles {
  return {
    read: (path) => unlessMissing(readFile(path, 'utf8'), undefined),
    // Never creates: what is not there is for the kernel to say.
    write: (path, value) => writeFile(path, value, { flag: 'r+' }),
    mayChange: (directory) =>
      access(directory, constants.W_OK).then(
        () => true,
        () => false,
      ),
    makeDirectory: (path) => mkdir(path),
    removeDirectory: (path) => rmdir(path),
    directoriesIn: async (path) => {
      const entries = await unlessMissing(readdir(path, { withFileTypes: true }), []);
      return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
    },
  };
}

/** ENODEV is what reading in a group says that was removed after the file was opened. */
async function unlessMissing<T, U>(work: Promise<T>, otherwise: U): Promise<T | U> {
  try {
    return await work;
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENODEV') return otherwise;
    throw error;
  }
}

/** The kernel's name for what went wrong, as `EBUSY`. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
