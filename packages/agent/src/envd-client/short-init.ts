/** POST /init in one datagram (envd's http/short-init.ts), which the guest acknowledges before it applies it. */
import { createSocket } from 'node:dgram';

export interface ShortInit {
  readonly host: string;
  readonly port: number;
  /** One that the guest knows. */
  readonly token: string;
  readonly body: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What fits into one Ethernet frame, so that nothing has to be put together again. */
const DATAGRAM_MAX_BYTES = 1_400;

/**
 * Whether it was acknowledged. If not, for whatever reason (too long, no such guest, lost on the way), the same is to be
 * sent as a request, which does no harm where it has been applied already.
 */
export async function sendShortInit(init: ShortInit): Promise<boolean> {
  const { host, port, token, body, timeoutMs, signal } = init;
  const datagram = Buffer.from(`${token}\n${body}`);
  if (datagram.length > DATAGRAM_MAX_BYTES || signal.aborted) return false;
  const socket = createSocket('udp4');
  let settle: (acknowledged: boolean) => void = () => {};
  const acknowledged = new Promise<boolean>((resolve) => {
    settle = resolve;
  });
  const giveUp = (): void => settle(false);
  const timer = setTimeout(giveUp, timeoutMs);
  signal.addEventListener('abort', giveUp, { once: true });
  try {
    socket.once('message', () => settle(true));
    socket.on('error', giveUp);
    socket.once('connect', () => socket.send(datagram, (error) => error !== null && giveUp()));
    socket.connect(port, host);
    return await acknowledged;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', giveUp);
    socket.close();
  }
}
