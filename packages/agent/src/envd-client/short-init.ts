/**
 * POST /init in one datagram (envd's http/short-init.ts), which the guest acknowledges before it applies it. If it cannot
 * apply it after all, it says so in a second one.
 */
import { createSocket, type Socket } from 'node:dgram';

export interface ShortInit {
  readonly host: string;
  readonly port: number;
  /** One that the guest knows. */
  readonly token: string;
  readonly body: string;
  /** For the acknowledgement. */
  readonly timeoutMs: number;
  /** For a refusal after it. */
  readonly listenMs: number;
  /** At most once, after the acknowledgement. The text is the guest's. */
  readonly onRefused: (why: string) => void;
  readonly signal: AbortSignal;
}

export interface Acknowledged {
  /** Does not listen for a refusal any longer. Idempotent. */
  close(): void;
}

/** What fits into one Ethernet frame, so that nothing has to be put together again. */
const DATAGRAM_MAX_BYTES = 1_400;
const REFUSAL = /^no (.*)$/s;

/**
 * Undefined where it was not acknowledged, for whatever reason (too long, no such guest, lost on the way): the same is to
 * be sent as a request then, which does no harm where it has been applied already.
 */
export async function sendShortInit(init: ShortInit): Promise<Acknowledged | undefined> {
  const { host, port, token, body, timeoutMs, signal } = init;
  const datagram = Buffer.from(`${token}\n${body}`);
  if (datagram.length > DATAGRAM_MAX_BYTES || signal.aborted) return undefined;
  const socket = createSocket('udp4');
  let settle: (acknowledged: boolean) => void = () => {};
  const acknowledged = new Promise<boolean>((resolve) => {
    settle = resolve;
  });
  const giveUp = (): void => settle(false);
  const timer = setTimeout(giveUp, timeoutMs);
  signal.addEventListener('abort', giveUp, { once: true });
  let isOpen = false;
  try {
    // Of what cannot be applied the acknowledgement may be lost, and the refusal not.
    socket.once('message', (message) => settle(!REFUSAL.test(message.toString('utf8'))));
    // Nobody listens at that port: the guest's kernel says so by ICMP.
    socket.on('error', giveUp);
    socket.once('connect', () => socket.send(datagram, (error) => error !== null && giveUp()));
    socket.connect(port, host);
    isOpen = await acknowledged;
    return isOpen ? listen(socket, init) : undefined;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', giveUp);
    if (!isOpen) socket.close();
  }
}

function listen(socket: Socket, { listenMs, onRefused }: ShortInit): Acknowledged {
  let isOpen = true;
  const close = (): void => {
    clearTimeout(timer);
    if (isOpen) socket.close();
    isOpen = false;
  };
  const timer = setTimeout(close, listenMs);
  // It is there for others, and keeps no process alive.
  timer.unref();
  socket.unref();
  socket.on('message', (message) => {
    const [, why] = REFUSAL.exec(message.toString('utf8')) ?? [];
    if (!isOpen || why === undefined) return;
    close();
    onRefused(why);
  });
  return { close };
}
