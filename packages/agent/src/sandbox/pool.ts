/**
 * Sandboxes that are ready before anybody asks: restored from a warm template, made machines of their own, used once,
 * and paused. A create is then a hand-over.
 *
 * They take room that others may need more: the pool is refilled only while the host has memory to spare, gives up
 * one after the other while the host is short of it, and one whenever there is no room for what is asked for. With the
 * agent they all go.
 */
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Template } from '../storage/storage.ts';
import type { SandboxDeps } from './deps.ts';
import { orderOf, type Roster } from './roster.ts';
import type { Sandbox } from './sandbox-parts.ts';
import { type CreateRequest, checkRequest, type SandboxSpec } from './spec.ts';
import { rehearse, type WarmTemplates } from './warm.ts';

export interface Pool {
  /** Fills it, in the background, and keeps it filled. */
  start(): void;
  /** One that fits, for the caller to claim or to destroy; undefined where there is none. */
  take(template: Template, spec: SandboxSpec): Sandbox | undefined;
  /** Gives one up. False if there was none. */
  giveUp(): Promise<boolean>;
  /** Ready ones, by template. */
  size(): number;
  stop(): void;
}

/** Between looks at whether there is room, or too little of it. */
const LOOK_MS = 1_000;
/** After a first failure; twice as long after each that follows on it. */
const FIRST_RETRY_MS = 5_000;
const LONGEST_RETRY_MS = 300_000;
/** Creates come first. */
const BUSY_POLL_MS = 20;
/** And so does whoever has just been given one and sends it a first command; but not for ever, one after the other. */
const REST_MS = 250;
const REST_MAX_MS = 1_000;

/** What one that is ready was made of. */
interface Make {
  readonly template: Template;
  readonly spec: SandboxSpec;
}

/** What is kept ready. One that cannot be made is put off for a while, and holds up no other. */
interface Kind {
  readonly request: CreateRequest;
  readonly size: number;
  /** What it comes to, as of the last look: its template may have been built anew. */
  make: Make | undefined;
  failures: number;
  retryAtMs: number;
}

interface Ready extends Make {
  readonly sandbox: Sandbox;
}

export function createPool(
  deps: SandboxDeps,
  roster: Roster,
  warm: WarmTemplates,
  isBusy: () => boolean,
): Pool {
  const { config, host, log, driver } = deps;
  const { entries, minAvailableMib } = config.pool;
  const kinds: Kind[] = entries.map(({ size, ...request }) => ({
    request,
    size,
    make: undefined,
    failures: 0,
    retryAtMs: 0,
  }));
  const ready: Ready[] = [];
  const stopping = new AbortController();
  // Every request that is rehearsed listens to it for a while.
  setMaxListeners(0, stopping.signal);
  let wake = (): void => {};
  /** The first and the last that were taken since one was made. */
  let taken: { readonly firstMs: number; readonly lastMs: number } | undefined;
  const isResting = (): boolean => {
    if (taken === undefined) return false;
    const nowMs = performance.now();
    return nowMs - taken.lastMs < REST_MS && nowMs - taken.firstMs < REST_MAX_MS;
  };

  /** One of them may have ended by itself. */
  const usable = ({ sandbox }: Ready): boolean => sandbox.view().state === 'paused';
  const fits = (one: Ready, { template, spec }: Make): boolean =>
    one.template.buildId === template.buildId &&
    one.template.guestImagePath === template.guestImagePath &&
    one.spec.vcpus === spec.vcpus &&
    one.spec.memoryMib === spec.memoryMib &&
    one.spec.diskMib === spec.diskMib &&
    JSON.stringify(one.spec.rateLimits) === JSON.stringify(spec.rateLimits);

  const makeOne = async ({ template, spec }: Make): Promise<void> => {
    const snapshot = await warm.make(template, spec);
    const order = orderOf(deps, { spec, template, start: { kind: 'copy', snapshot }, purpose: 'own' });
    const sandbox = await roster.make(order);
    try {
      await rehearse(deps, sandbox, stopping.signal);
      await sandbox.pause();
      ready.push({ sandbox, template, spec });
    } catch (error) {
      await sandbox.destroy();
      throw error;
    }
  };

  const giveUp = async (): Promise<boolean> => {
    const one = ready.pop();
    if (one === undefined) return false;
    await one.sandbox.destroy();
    return true;
  };

  /** One step; `more` where there may be another to do at once. */
  const adjust = async (): Promise<'more' | 'done'> => {
    for (const one of ready.filter((each) => !usable(each))) ready.splice(ready.indexOf(one), 1);
    const availableMib = await deps.availableMemoryMib();
    if (availableMib < minAvailableMib) {
      const gaveUp = await giveUp();
      if (gaveUp) log.info({ availableMib, left: ready.length }, 'memory is short: the pool gave one up');
      return gaveUp ? 'more' : 'done';
    }
    for (const kind of kinds.filter(isDue)) {
      try {
        const spec = checkRequest(kind.request, config, host);
        kind.make = { spec, template: await deps.storage.resolveTemplate(spec.template) };
      } catch (error) {
        putOff(kind, error);
      }
    }
    const ofNoUse = ready.findIndex(
      (one) => !kinds.some(({ make }) => make !== undefined && fits(one, make)),
    );
    if (ofNoUse >= 0) {
      const [one] = ready.splice(ofNoUse, 1);
      await one?.sandbox.destroy();
      return 'more';
    }
    for (const kind of kinds.filter(isDue)) {
      const { make, size } = kind;
      if (make === undefined) continue;
      if (ready.filter((one) => usable(one) && fits(one, make)).length >= size) continue;
      if (availableMib < minAvailableMib + make.spec.memoryMib) return 'done';
      try {
        await makeOne(make);
        kind.failures = 0;
      } catch (error) {
        putOff(kind, error);
      }
      return 'more';
    }
    return 'done';
  };
  const isDue = ({ retryAtMs }: Kind): boolean => retryAtMs < performance.now();

  const putOff = (kind: Kind, err: unknown): void => {
    if (stopping.signal.aborted) return;
    const retryMs = Math.min(FIRST_RETRY_MS * 2 ** kind.failures, LONGEST_RETRY_MS);
    kind.failures += 1;
    kind.retryAtMs = performance.now() + retryMs;
    const { template } = kind.request;
    log.warn({ err, template, nextInMs: retryMs }, 'the pool could not be filled');
  };

  const pause = (ms: number): Promise<void> => sleep(ms, undefined, { signal: stopping.signal, ref: false });
  const fill = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      while (isBusy() || isResting()) await pause(BUSY_POLL_MS);
      taken = undefined;
      const next = await adjust().catch((err: unknown) => {
        if (!stopping.signal.aborted) log.warn({ err }, 'the pool could not be looked after');
        return 'done' as const;
      });
      if (next === 'more') continue;
      const woken = new Promise<void>((resolve) => {
        wake = resolve;
      });
      await Promise.race([woken, pause(LOOK_MS)]);
    }
  };

  return {
    start: () => {
      if (entries.length === 0 || !driver.features.snapshot) return;
      fill().catch(() => {});
    },
    take: (template, spec) => {
      const found = ready.findIndex((one) => usable(one) && fits(one, { template, spec }));
      if (found < 0) return undefined;
      const [one] = ready.splice(found, 1);
      const nowMs = performance.now();
      taken = { firstMs: taken?.firstMs ?? nowMs, lastMs: nowMs };
      wake();
      return one?.sandbox;
    },
    giveUp,
    size: () => ready.filter(usable).length,
    stop: () => stopping.abort(),
  };
}
