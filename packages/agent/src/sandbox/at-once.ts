/** Much to do, and not all of it at once: each takes descriptors, and the agent has so many. */

/**
 * The work for each, in the order given, so many at once. When one fails nothing more is begun; its failure is thrown
 * when what was begun has settled.
 */
export async function mapAtOnce<T, R>(
  count: number,
  items: Iterable<T>,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const waiting = [...items].entries();
  let hasFailed = false;
  const worker = async (): Promise<void> => {
    for (const [index, item] of waiting) {
      if (hasFailed) return;
      try {
        results[index] = await work(item);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  const workers = Array.from({ length: count }, worker);
  await Promise.allSettled(workers);
  await Promise.all(workers);
  return results;
}
