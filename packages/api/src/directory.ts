/** What the edge asks of whoever knows the sandboxes. */

export interface EdgeTarget {
  readonly sandboxId: string;
  /** Where every port of the guest is, on this host. */
  readonly address: string;
  /** What clients must show to reach other ports than envd's; undefined where anybody may. */
  readonly trafficToken: string | undefined;
  /** What the guest sees as `Host`, with `${PORT}` for the port; undefined for what the client sent. */
  readonly maskRequestHost: string | undefined;
}

export interface EdgeDirectory {
  /** Undefined for one that is unknown, gone or asleep. */
  find(sandboxId: string, signal: AbortSignal): Promise<EdgeTarget | undefined>;
  /** A port was refused: whether the guest lets the world reach one that is open on its loopback alone from now on. */
  expose(target: EdgeTarget, port: number, signal: AbortSignal): Promise<boolean>;
  /** Calls back when a sandbox cannot be reached any more; returns how to stop that. */
  onGone(listener: (sandboxId: string) => void): () => void;
}
