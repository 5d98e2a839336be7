/** What a route is: its validation, its place in the document and its handler come from one definition. */
import type { z } from 'zod';
import type { Caller } from '../sandboxes/caller.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** Who may: anybody, anybody with a key, or a key that manages. */
export type Access = 'open' | 'key' | 'admin';

export interface Answer {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Of a body that is text; JSON otherwise. */
  readonly contentType?: string;
}

export interface Input<P, Q, B> {
  readonly params: P;
  readonly query: Q;
  readonly body: B;
  readonly caller: Caller;
  /** The key as it was shown. */
  readonly secret: string;
}

/** An answer without a body, or with text of this type. */
export type ResponseSpec = z.ZodType | 'empty' | `text/${string}`;

export interface RouteSpec {
  readonly method: Method;
  /** With `{name}` for parameters. */
  readonly path: string;
  readonly summary: string;
  readonly tag: string;
  readonly access: Access;
  readonly params?: z.ZodType;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** May be absent, and is `{}` then. */
  readonly bodyOptional?: boolean;
  readonly responses: Readonly<Record<number, ResponseSpec>>;
  readonly headers?: readonly string[];
  readonly deprecated?: boolean;
}

/** With its types gone: the server parses before it calls. */
export interface Route {
  readonly spec: RouteSpec;
  handle(input: Input<unknown, unknown, unknown>): Promise<Answer>;
}

type Parsed<S> = S extends z.ZodType ? z.output<S> : undefined;

export function route<
  P extends z.ZodType | undefined = undefined,
  Q extends z.ZodType | undefined = undefined,
  B extends z.ZodType | undefined = undefined,
>(
  spec: Omit<RouteSpec, 'params' | 'query' | 'body'> & {
    readonly params?: P;
    readonly query?: Q;
    readonly body?: B;
  },
  handle: (input: Input<Parsed<P>, Parsed<Q>, Parsed<B>>) => Promise<Answer>,
): Route {
  const { params, query, body, ...rest } = spec;
  return {
    spec: {
      ...rest,
      ...(params === undefined ? {} : { params }),
      ...(query === undefined ? {} : { query }),
      ...(body === undefined ? {} : { body }),
    },
    // The server has parsed each part with the schema of this very spec.
    handle: async (input) => await handle(input as Input<Parsed<P>, Parsed<Q>, Parsed<B>>),
  };
}
