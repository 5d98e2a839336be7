/**
 * Parts that are loaded when they are first needed.
 *
 * Loading everything takes three quarters of envd's start (see README.md), and a host that waits for
 * /health needs none of it. The first use pays, once; a host that makes snapshots uses each part once
 * before, so that clones have them.
 */
export function lazily<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | undefined;
  return () => {
    loading ??= load();
    return loading;
  };
}
