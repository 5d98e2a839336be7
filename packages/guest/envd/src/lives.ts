/**
 * The lives of this machine. One begins with its boot, and another one whenever it goes on as a clone or after a sleep:
 * whoever was connected until then is gone, and nothing will ever say so, as the network here is another one as well. TCP
 * would take a quarter of an hour to notice, and what only listens would never.
 */
import { Code, ConnectError } from '@connectrpc/connect';

export interface Lives {
  /** Of the life that is now; aborts when the next one begins. What a caller of this life holds is let go of then. */
  readonly current: AbortSignal;
  begin(): void;
}

export function createLives(): Lives {
  let life = new AbortController();
  return {
    get current() {
      return life.signal;
    },
    begin: () => {
      const former = life;
      life = new AbortController();
      former.abort(new ConnectError('the machine has begun another life: connect again', Code.Unavailable));
    },
  };
}
