"""The lower limit: a relay in Python that only copies bytes, measured like a broker.

It does what any bridge in Python has to do at least: receive from the publishers that are ready,
send it all in one piece to the far end, receive acknowledgements, give each publisher its own. It
decodes nothing: the size of a message is told, and acknowledgements are in order. What Isthmus
costs above it is MQTT.

    python -m bench.relay PORT FAR_PORT PACKET_BYTES QOS
"""

from __future__ import annotations

import gc
import select
import signal
import socket
import sys
from collections import deque

from bench import wire

READ_BYTES = 16 << 10  # what Isthmus reads from a publisher at once
ACK_BYTES = 4


class Relay:
    def __init__(self, port: int, far_port: int, packet_bytes: int, qos: int) -> None:
        self.packet_bytes, self.qos = packet_bytes, qos
        self.epoll = select.epoll()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.listener.setblocking(False)
        self.far = socket.create_connection(("127.0.0.1", far_port))
        self.far.sendall(wire.connect("bench-relay"))
        self.far.recv(16)
        self.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sources: dict[int, socket.socket] = {}
        self.owed: dict[int, int] = {}  # bytes of a source that do not make a whole packet yet
        self.order: deque[tuple[int, int]] = deque()  # (source, packets) as sent to the far end
        for sock in (self.listener, self.far):
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def accept(self) -> None:
        sock, _address = self.listener.accept()
        sock.recv(4096)  # CONNECT
        sock.send(b"\x20\x02\0\0")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sources[sock.fileno()] = sock
        self.owed[sock.fileno()] = 0
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def close(self, fd: int) -> None:
        self.epoll.unregister(fd)
        self.sources.pop(fd).close()

    def acknowledge(self) -> None:
        """Hand the far end's acknowledgements to the publishers, one send for each."""
        data = self.far.recv(1 << 16)
        if not data:
            sys.exit("far end closed")
        pieces: dict[int, list[bytes]] = {}
        pos = 0
        while pos < len(data):
            fd, packets = self.order[0]
            take = min(packets, (len(data) - pos) // ACK_BYTES)
            if take == packets:
                self.order.popleft()
            else:
                self.order[0] = (fd, packets - take)
            pieces.setdefault(fd, []).append(data[pos : pos + take * ACK_BYTES])
            pos += take * ACK_BYTES
        for fd, parts in pieces.items():
            source = self.sources.get(fd)
            if source is not None:
                source.sendall(b"".join(parts))

    def run(self) -> None:
        listener, far = self.listener.fileno(), self.far.fileno()
        size = self.packet_bytes
        while True:
            chunks = []
            for fd, _events in self.epoll.poll():
                if fd == far:
                    self.acknowledge()
                elif fd == listener:
                    self.accept()
                else:
                    data = self.sources[fd].recv(READ_BYTES)
                    if not data:
                        self.close(fd)
                        continue
                    chunks.append(data)
                    if self.qos:
                        packets, self.owed[fd] = divmod(len(data) + self.owed[fd], size)
                        if packets:
                            self.order.append((fd, packets))
            if chunks:
                self.far.sendall(chunks[0] if len(chunks) == 1 else b"".join(chunks))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()
    port, far_port, packet_bytes, qos = (int(word) for word in sys.argv[1:5])
    Relay(port, far_port, packet_bytes, qos).run()
