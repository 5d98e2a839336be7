/** What the edge asks: where a sandbox is, and when it is gone. Its only way into the rest of the API. */

export interface EdgeTarget {
  readonly sandboxId: string;
  /** The host's address of the guest; every port of the guest is there. */
  readonly address: string;
  /** That public traffic must show; undefined where anybody may come. */
  readonly trafficToken: string | undefined;
  /** In place of the request's host, with `${PORT}` in it. */
  readonly maskRequestHost: string | undefined;
}

export interface EdgeDirectory {
  /** Wakes a paused sandbox where its owner wants that. Undefined where there is none that runs. */
  find(sandboxId: string, signal: AbortSignal): Promise<EdgeTarget | undefined>;
  /** Calls `listener` when a sandbox was killed, paused or has failed; returns what ends that. */
  onGone(listener: (sandboxId: string) => void): () => void;
}
