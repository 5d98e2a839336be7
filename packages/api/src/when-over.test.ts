import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { isWaitedOn, whenOver } from './when-over.ts';

let server: Server;
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

async function ask(): Promise<ReturnType<typeof connect>> {
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {});
  client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  return client;
}

it('tells of a client that was gone before anybody asked', async () => {
  let [isOver, isWaiting] = [false, true];
  server = createServer(async (request, response) => {
    await once(request.socket, 'close');
    await sleep(20);
    whenOver(request, response, () => {
      isOver = true;
      isWaiting = isWaitedOn(request.socket);
    });
  });
  const client = await ask();
  await once(server, 'request');
  client.destroy();
  await expect.poll(() => isOver).toBe(true);
  expect(isWaiting).toBe(false);
});

it('tells once, when the response is done, and until then that somebody waits', async () => {
  let told = 0;
  const waited: boolean[] = [];
  server = createServer((request, response) => {
    whenOver(request, response, () => {
      told += 1;
      waited.push(isWaitedOn(request.socket));
    });
    waited.push(isWaitedOn(request.socket));
    response.end();
  });
  const client = await ask();
  await once(client, 'data');
  await expect.poll(() => told).toBe(1);
  client.destroy();
  await sleep(50);
  expect([told, waited]).toEqual([1, [true, false]]);
});
