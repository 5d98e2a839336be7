/** The services take over from what has run until now: in which order, and so that a failure leaves none stopped that ran. */
import { AGENT_UNIT, API_UNIT } from './units.ts';

export interface TakeOver {
  readonly isUp: (unit: string) => Promise<boolean>;
  readonly control: (action: 'stop' | 'restart', unit: string) => Promise<void>;
  /** Done while the service does not run: what else has the agent's directory, or the API's store and port, is its own. */
  readonly prepareAgent: () => Promise<void>;
  readonly prepareApi: () => Promise<void>;
  readonly untilServing: (unit: string) => Promise<void>;
  readonly say: (line: string) => void;
  /** Looked at between the steps, each of which has a bound. */
  readonly signal: AbortSignal;
}

/** Resolves once both serve. Throws what a step does. */
export async function takeOver(steps: TakeOver): Promise<void> {
  const { prepareAgent, prepareApi, untilServing } = steps;
  // The API goes on meanwhile, also where the agent does not come up.
  await startAfter(AGENT_UNIT, prepareAgent, steps);
  await untilServing(AGENT_UNIT);
  await startAfter(API_UNIT, prepareApi, steps);
  await untilServing(API_UNIT);
}

/** Where `prepare` fails, too, if it ran before: systemd goes on trying. */
async function startAfter(
  unit: string,
  prepare: () => Promise<void>,
  { isUp, control, say, signal }: TakeOver,
): Promise<void> {
  signal.throwIfAborted();
  const wasUp = await isUp(unit);
  try {
    await control('stop', unit);
    signal.throwIfAborted();
    await prepare();
    signal.throwIfAborted();
  } catch (error) {
    if (wasUp) {
      const isStarted = await control('restart', unit).then(
        () => true,
        () => false,
      );
      say(
        isStarted
          ? `${unit} ran before, and is started again`
          : `${unit} ran before, and could not be started again: \`systemctl restart ${unit}\``,
      );
    }
    throw error;
  }
  await control('restart', unit);
}
