/** Between the soak and its client processes. */

/** What every client does, all at once. */
export const KINDS = ['exec', 'files', 'watch', 'terminal'] as const;
export type Kind = (typeof KINDS)[number];

export interface ClientOrder {
  readonly url: string;
  readonly apiKey: string;
  readonly clients: readonly {
    readonly name: string;
    readonly sandboxId: string;
    /** They do not all come in the same moment. */
    readonly beginAfterMs: number;
  }[];
  /** How long a single thing may take: the machine is small, and its guests may be emulated. */
  readonly patienceMs: number;
  /** Between one thing and the next of its kind, on average. */
  readonly pauseMs: number;
}

export type ToClients =
  | ClientOrder
  /** All are at work: what is done from now on counts. */
  | 'count'
  | 'stop';

export type ClientReport =
  /** So many of the clients wait for so and so, before they have done each thing once. */
  | { readonly kind: 'progress'; readonly waiting: Readonly<Record<string, number>> }
  /** Each client has done each thing once. */
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'report';
      /** How often each client did each thing. */
      readonly done: readonly Readonly<Record<Kind, number>>[];
      /** How long each took, whoever did it. */
      readonly tookMs: Readonly<Record<Kind, readonly number[]>>;
      readonly errors: readonly string[];
    };
