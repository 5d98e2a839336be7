/** Sockets that listen in a sandbox's namespace, made by a process that has entered it (door.ts). */
import { spawn } from 'node:child_process';
import net from 'node:net';
import { plainEnvironment } from '@wrenn/host';
import { failed } from './link.ts';
import { fromDoorSchema, PORTS } from './messages.ts';

export interface DoorSockets {
  readonly opened: Promise<readonly { readonly port: 80 | 443; readonly server: net.Server }[]>;
  /** Ours of them; whoever was given one keeps it. */
  close(): void;
}

export function openSockets([program = '', ...args]: readonly string[]): DoorSockets {
  const child = spawn(program, args, {
    cwd: '/',
    detached: true,
    env: plainEnvironment(),
    shell: false,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  child.unref();
  child.channel?.unref();
  const servers: { readonly port: 80 | 443; readonly server: net.Server }[] = [];
  let isClosed = false;
  const opened = new Promise<typeof servers>((resolve, reject) => {
    child.on('message', (received, handle) => {
      if (!(handle instanceof net.Server)) return;
      // It would keep the namespace for as long as the agent runs.
      if (isClosed) return void handle.close();
      // Whoever comes before the gateway has it comes too early, and is not worth an end for want of descriptors.
      handle.on('connection', (socket) => socket.destroy()).on('error', () => {});
      servers.push({ port: fromDoorSchema.parse(received).port, server: handle });
      if (servers.length === PORTS.length) resolve(servers);
    });
    child.once('error', (cause) => reject(failed('The egress door cannot be opened.', cause)));
    child.once('exit', (code) => reject(failed(`The egress door cannot be opened: it ended with ${code}.`)));
  });
  opened.catch(() => {});
  return {
    opened,
    close: () => {
      isClosed = true;
      for (const { server } of servers) server.close();
      child.kill('SIGKILL');
    },
  };
}
