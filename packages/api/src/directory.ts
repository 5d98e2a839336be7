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

/** What decides who may pass. */
export type EdgeAccess = Pick<EdgeTarget, 'sandboxId' | 'trafficToken'>;

export interface EdgeDirectory {
  /**
   * Undefined for one that is unknown, gone or asleep. One that traffic wakes is woken for those whom `mayWake` lets;
   * throws where it cannot be: `too_many_requests` and the like where that is a matter of limits.
   */
  find(
    sandboxId: string,
    mayWake: (access: EdgeAccess) => boolean,
    signal: AbortSignal,
  ): Promise<EdgeTarget | undefined>;
  /** A port was refused: whether the guest lets the world reach one that is open on its loopback alone from now on. */
  expose(target: EdgeTarget, port: number, signal: AbortSignal): Promise<boolean>;
  /** Calls back when a sandbox cannot be reached any more; returns how to stop that. */
  onGone(listener: (sandboxId: string) => void): () => void;
}
