"""A TCP proxy that a test can make a black hole."""

import socket
import threading
from contextlib import suppress


class Proxy:
    """
    Forwards from `port` to `target`, both on this machine, until `close`; a new one on the same port is the
    server's return.

    Attributes:
        forwarding: cleared, nothing passes any more, and nothing is closed: a black hole.

    """

    def __init__(self, port: int, target: int) -> None:
        self.forwarding = threading.Event()
        self.forwarding.set()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Close everything, as a server that dies does."""
        self.forwarding.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._forward, args=pair, daemon=True))
                self._threads[-1].start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.forwarding.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
