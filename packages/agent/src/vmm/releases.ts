/** Undoing a launch that failed. */

/** Last acquired, first released; a release that fails does not keep the others from it. */
export async function releaseAll(
  releases: (() => unknown)[],
  warn: (message: string, cause: unknown) => void,
): Promise<void> {
  for (const release of releases.reverse()) {
    try {
      await release();
    } catch (error) {
      warn('Something of a failed launch could not be released', error);
    }
  }
}
