/** Connections to guests, on which what comes can be taken past Node's parser of HTTP. */
import { connect, type Socket, type TcpSocketConnectOpts } from 'node:net';

/** Gets all that comes. The piece stays as it is until `done` is called. False: no more until the socket is resumed. */
export type Past = (piece: Buffer, done: () => void) => boolean;

/** Asked before each piece that would be the parser's: undefined if it is. */
export type AskPast = () => Past | undefined;

const PARSER_BYTES = 64 * 1024;
/** The most that one piece past the parser has; one with less has all that there was to read. */
export const PAST_BYTES = 128 * 1024;

/**
 * Connections read to it what the parser gets, and copy it before anything else is read: there may be thousands that say
 * little. One that has just filled it to the half gets a buffer of its own for the next piece, and saves the copy.
 */
const forParser = Buffer.alloc(PARSER_BYTES);
const asks = new WeakMap<Socket, AskPast>();

export function connectToGuest(options: TcpSocketConnectOpts): Socket {
  let past: Past | undefined;
  let isBusy = false;
  const free: Uint8Array[] = [];
  const socket: Socket = connect({
    ...options,
    onread: {
      // For the next piece. None is read to again before it is free, whoever resumes the socket meanwhile.
      buffer: () => {
        if (past !== undefined) return free.pop() ?? Buffer.allocUnsafeSlow(PAST_BYTES);
        return isBusy ? Buffer.allocUnsafeSlow(PARSER_BYTES) : forParser;
      },
      callback: (sizeBytes, buffer) => {
        const piece = Buffer.from(buffer.buffer, buffer.byteOffset, sizeBytes);
        if (past !== undefined) return past(piece, () => free.push(buffer));
        isBusy = sizeBytes > PARSER_BYTES / 2;
        const own = buffer === forParser ? Buffer.from(piece) : piece;
        past = asks.get(socket)?.();
        return past === undefined ? socket.push(own) : past(own, () => {});
      },
    },
  });
  return socket;
}

/** What has gone past the parser once never comes back to it. */
export function askBeforeEachPiece(socket: Socket, ask: AskPast): void {
  asks.set(socket, ask);
}

export function askNoMore(socket: Socket): void {
  asks.delete(socket);
}
