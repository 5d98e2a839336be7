/** Programs that run in the guest, in the Python of the template `minimal`, which has nothing else to measure with. */

/** Starts /bin/true again and again with nothing in between; prints how long each took, in ms. */
export const SPAWN_LOOP = `
import os, sys, time
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    os.waitpid(os.posix_spawn('/bin/true', ['/bin/true'], {}), 0)
    print((time.perf_counter() - began) * 1000)
`;

/**
 * Serves one transfer for each connection; the first byte says which. Into nothing (u) or a file (U), answered
 * with one byte when all is there; from memory (d) or a file (D).
 */
export const TRANSFER_SERVER = `
import socket, sys
port, size, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
buffer = bytearray(1 << 18)
view = memoryview(buffer)
server = socket.create_server(('', port))
print('ready', flush=True)
while True:
    peer, _ = server.accept()
    with peer:
        kind = peer.recv(1)
        if kind in (b'u', b'U'):
            file = open(path, 'wb', buffering=0) if kind == b'U' else None
            left = size
            while left > 0:
                got = peer.recv_into(buffer)
                if got == 0:
                    break
                if file:
                    file.write(view[:got])
                left -= got
            if file:
                file.close()
            peer.sendall(b'.')
        elif kind == b'd':
            for _ in range(size >> 18):
                peer.sendall(buffer)
        elif kind == b'D':
            with open(path, 'rb') as file:
                peer.sendfile(file)
`;
