/** Runs in a guest, on a port that is open on its loopback alone: what programs in sandboxes serve, in small. */
import { createHash } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';

const [port = '3000', host = '127.0.0.1'] = process.argv.slice(2);
const WEBSOCKET = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://guest');
  if (pathname === '/events') {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let count = 0;
    const timer = setInterval(() => response.write(`data: ${count++}\n\n`), 100);
    response.once('close', () => {
      clearInterval(timer);
      appendFileSync('/tmp/closed', `${pathname}\n`);
    });
  } else if (pathname === '/echo') {
    response.writeHead(200, { 'x-method': request.method });
    request.pipe(response);
  } else if (pathname === '/hash') {
    const hash = createHash('sha256');
    request.on('data', (chunk) => hash.update(chunk)).once('end', () => response.end(hash.digest('hex')));
  } else {
    response.writeHead(201, { 'content-type': 'application/json', 'set-cookie': ['a=1', 'b=2'] });
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers }));
  }
});

/** Says back what small frames say, and nothing more of the protocol. */
server.on('upgrade', (request, socket) => {
  const accept = createHash('sha1')
    .update(request.headers['sec-websocket-key'] + WEBSOCKET)
    .digest('base64');
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  let rest = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= 6) {
      const size = rest[1] & 0x7f;
      if (rest.length < 6 + size) return;
      const mask = rest.subarray(2, 6);
      const data = rest.subarray(6, 6 + size).map((byte, at) => byte ^ mask[at % 4]);
      socket.write(Buffer.concat([Buffer.from([rest[0], size]), data]));
      rest = rest.subarray(6 + size);
    }
  });
  socket.on('error', () => {});
});

server.listen(Number(port), host, () => console.log('listening'));
