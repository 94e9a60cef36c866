"""A line between mqi and sshd that can be cut at a byte, slowed down, or go silent."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time


class Proxy:
    """Forwards connections from `port` to `target` on 127.0.0.1.

    `cut` = (direction, bytes): the next connection breaks when so many bytes have gone "up" (to the server) or
    "down". `silent`: connections stay open, and nothing arrives any more. `delay_s`: everything that comes down is
    late by this.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.cut: tuple[str, int] | None = None
        self.silent = False
        self.delay_s = 0.0
        # What went over the newest connection.
        self.moved = {"up": 0, "down": 0}
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self._ended = threading.Event()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._ended.is_set():
                client.close()
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()
                continue
            cut, self.cut = self.cut, None
            self.moved = {"up": 0, "down": 0}
            thread = threading.Thread(target=self._forward, args=(client, server, cut, self.moved), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _forward(
        self, client: socket.socket, server: socket.socket, cut: tuple[str, int] | None, moved: dict[str, int]
    ) -> None:
        ends = {client: (server, "up"), server: (client, "down")}
        with client, server, contextlib.suppress(OSError):
            while not self._ended.is_set():
                for source in select.select(list(ends), [], [], 0.2)[0]:
                    target, direction = ends[source]
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if self.silent:
                        continue
                    if direction == "down" and self.delay_s:
                        time.sleep(self.delay_s)
                    if cut is not None and cut[0] == direction and moved[direction] + len(data) >= cut[1]:
                        target.sendall(data[: cut[1] - moved[direction]])
                        return
                    moved[direction] += len(data)
                    target.sendall(data)

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(5)
