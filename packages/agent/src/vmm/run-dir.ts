/** Whose a sandbox's run directory is: the VMM's while it makes its sockets, and the agent's from then on. */
import { chmod, lchown } from 'node:fs/promises';

/** Gives the directory to the VMM, so that it can make its sockets there. */
export async function lendRunDir(
  runDir: string,
  owner: { readonly uid: number; readonly gid: number },
): Promise<void> {
  await lchown(runDir, owner.uid, owner.gid);
}

/**
 * Takes it back before the guest runs: a VMM that its guest takes over finds nothing there that it could replace
 * by a link, and no place for files but the sandbox's own layer.
 */
export async function takeBackRunDir(runDir: string): Promise<void> {
  // Of whoever runs the agent, which in unit tests is anybody.
  await lchown(runDir, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
  await chmod(runDir, 0o700);
}

/** Lets the VMM open by name what is its own in the agent's directory, and do nothing else there. */
export async function letThrough(runDir: string, gid: number): Promise<void> {
  await lchown(runDir, process.geteuid?.() ?? 0, gid);
  await chmod(runDir, 0o710);
}
