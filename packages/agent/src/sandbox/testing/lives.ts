/** What may be asked of sandboxes and what may go wrong meanwhile, at random, and some lives that are always the same. */
import fc from 'fast-check';
import type { SandboxState } from '../states.ts';

export type Action =
  | { readonly kind: 'create'; readonly timeoutMs: number | undefined }
  | {
      readonly kind:
        | 'pause'
        | 'resume'
        | 'hibernate'
        | 'destroy'
        | 'fork'
        | 'snapshot'
        | 'exec'
        | 'leaveExec';
      readonly which: number;
      /** Of all there are, and not only of those with which it may come to something. */
      readonly ofAll: boolean;
    }
  | { readonly kind: 'createFrom' | 'deleteSnapshot' | 'die'; readonly which: number }
  | { readonly kind: 'setTimeout'; readonly which: number; readonly timeoutMs: number }
  | { readonly kind: 'wait'; readonly ms: number }
  /** Until all that was asked for has settled. */
  | { readonly kind: 'settle' };

/** Which operations fail, how long each takes, and which are slow to heed an abort. */
export interface Disturbance {
  /** Used round and round. */
  readonly plan: readonly { readonly ms: number; readonly fails: boolean; readonly deaf: boolean }[];
  /** An operation that fails the first time, and then every other time. */
  readonly faulty: string | undefined;
}

export type Life = readonly [readonly Action[], Disturbance];

/** In which states it may come to something; to destroy one is of interest while something else is done with it. */
export const WORTH_WHILE: Readonly<Record<string, readonly SandboxState[]>> = {
  pause: ['running'],
  resume: ['paused', 'hibernated'],
  hibernate: ['running', 'paused'],
  fork: ['running', 'paused'],
  snapshot: ['running', 'paused'],
  destroy: ['hibernating', 'resuming'],
  exec: ['running'],
  leaveExec: ['running'],
};

const which = fc.nat(5);
const oneIn = (many: number): fc.Arbitrary<boolean> => fc.noBias(fc.nat(many - 1)).map((n) => n === 0);
const settle = fc.constant({ kind: 'settle' } as const);
const wait = (minMs: number, maxMs: number) =>
  fc.record({ kind: fc.constant('wait' as const), ms: fc.integer({ min: minMs, max: maxMs }) });

const single: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('create' as const),
      // Mostly none: what is over at once meets nothing else.
      timeoutMs: fc.oneof(
        { weight: 8, arbitrary: fc.constant(undefined) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 60 }) },
      ),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.oneof(
        { weight: 2, arbitrary: fc.constantFrom('pause' as const, 'resume' as const, 'hibernate' as const) },
        {
          weight: 2,
          arbitrary: fc.constantFrom(
            'fork' as const,
            'snapshot' as const,
            'destroy' as const,
            'exec' as const,
            'leaveExec' as const,
          ),
        },
      ),
      which,
      ofAll: oneIn(4),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('createFrom' as const, 'deleteSnapshot' as const, 'die' as const),
      which,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('setTimeout' as const),
      which,
      timeoutMs: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 4, arbitrary: wait(0, 6) },
  { weight: 5, arbitrary: settle },
);

const aimed = (kind: 'pause' | 'resume' | 'hibernate' | 'snapshot' | 'destroy') =>
  fc.record({ kind: fc.constant(kind), which, ofAll: fc.constant(false) });
const ofSnapshots = (kind: 'createFrom' | 'deleteSnapshot') => fc.record({ kind: fc.constant(kind), which });
/** What seldom comes about by chance, because one thing has to be over before the next begins. */
const course: fc.Arbitrary<readonly Action[]> = fc.oneof(
  fc.tuple(settle, aimed('pause'), settle, aimed('resume')),
  fc.tuple(settle, aimed('pause'), settle, aimed('hibernate')),
  fc.tuple(settle, aimed('hibernate'), settle, aimed('resume')),
  fc.tuple(settle, aimed('hibernate'), settle, aimed('resume'), wait(1, 12), aimed('destroy')),
  fc.tuple(
    settle,
    aimed('snapshot'),
    settle,
    ofSnapshots('createFrom'),
    settle,
    ofSnapshots('deleteSnapshot'),
  ),
);

export const randomActions: fc.Arbitrary<readonly Action[]> = fc
  .array(
    fc.oneof(
      { weight: 7, arbitrary: single.map((action): readonly Action[] => [action]) },
      { weight: 1, arbitrary: course },
    ),
    { maxLength: 50, size: 'max' },
  )
  .map((parts) => parts.flat());

/**
 * A create has some twenty operations: where many of them fail there are no sandboxes for anything else to be done with.
 * So in most lives one is faulty that no boot has.
 */
export const randomDisturbance: fc.Arbitrary<Disturbance> = fc.record({
  plan: fc.array(fc.record({ ms: fc.nat(3), fails: oneIn(26), deaf: fc.boolean() }), {
    minLength: 1,
    maxLength: 30,
  }),
  faulty: fc.constantFrom(
    undefined,
    undefined,
    'pause',
    'resume',
    'snapshot',
    'makeHibernation',
    'sealHibernation',
    'giveTo',
    'giveTo',
    'restore',
  ),
});

/** Always the same, one thing after the other: each transition is in one of them, however seldom it comes about else. */
export const KNOWN_LIVES: readonly Life[] = [
  known('create pause resume pause hibernate resume hibernate resume destroy'),
  known('create snapshot createFrom fork die'),
  known('create snapshot deleteSnapshot pause destroy create hibernate destroy'),
  known('create hibernate hibernate destroy', { faulty: 'sealHibernation' }),
  known('create pause hibernate hibernate destroy', { faulty: 'makeHibernation' }),
  known('create hibernate resume resume destroy', { faulty: 'giveTo' }),
  known('create+destroy create hibernate+destroy create hibernate resume+destroy', { ms: 20 }),
];

/** Each word when all before it has settled; what stands behind a plus, while that before it is under way. */
function known(
  words: string,
  { faulty, ms = 0 }: { readonly faulty?: string; readonly ms?: number } = {},
): Life {
  const actions = words.split(' ').flatMap((word): Action[] => {
    const [first, second] = word.split('+').map(actionOf);
    if (first === undefined) return [];
    // In the middle of the second operation. Nobody has asked for a death, and so nobody waits for what comes of it.
    const meanwhile: Action[] = second === undefined ? [] : [{ kind: 'wait', ms: ms * 1.5 }, second];
    const after: Action = first.kind === 'die' ? { kind: 'wait', ms: 20 } : { kind: 'settle' };
    return [first, ...meanwhile, after];
  });
  return [actions, { plan: [{ ms, fails: false, deaf: false }], faulty }];
}

function actionOf(word: string): Action {
  switch (word) {
    case 'create':
      return { kind: 'create', timeoutMs: undefined };
    case 'createFrom':
    case 'deleteSnapshot':
    case 'die':
      return { kind: word, which: 0 };
    case 'pause':
    case 'resume':
    case 'hibernate':
    case 'destroy':
    case 'fork':
    case 'snapshot':
      return { kind: word, which: 0, ofAll: true };
    default:
      throw new Error(`${word} is no action`);
  }
}
