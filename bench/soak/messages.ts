/** Between the soak and its client processes. */
export interface ClientOrder {
  readonly url: string;
  readonly apiKey: string;
  readonly clients: readonly { readonly name: string; readonly sandboxId: string }[];
  /** How long a single thing may take: the machine is small, and its guests may be emulated. */
  readonly patienceMs: number;
}

export type ClientReport =
  /** Each client has done each thing once. */
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'report';
      readonly done: Readonly<Record<string, number>>;
      readonly errors: readonly string[];
    };
