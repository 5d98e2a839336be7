/**
 * One question for all that ask it at the same time. Who comes while one is under way waits for the next, which begins
 * when that has ended: no answer is older than its question, and there are two of a kind at most, however many ask.
 */
export function shared<Key, Answer>(ask: (key: Key) => Promise<Answer>): (key: Key) => Promise<Answer> {
  const flights = new Map<Key, { running: Promise<Answer>; next: Promise<Answer> | undefined }>();

  const start = (key: Key): Promise<Answer> => {
    const running = ask(key).finally(() => {
      // Else the next one takes its place.
      if (flights.get(key)?.next === undefined) flights.delete(key);
    });
    flights.set(key, { running, next: undefined });
    return running;
  };
  return (key) => {
    const flight = flights.get(key);
    if (flight === undefined) return start(key);
    const goOn = (): Promise<Answer> => start(key);
    flight.next ??= flight.running.then(goOn, goOn);
    return flight.next;
  };
}
