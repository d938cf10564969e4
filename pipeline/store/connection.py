"""A blocking RESP connection for the hot path: what redis-py does there costs 4-7 times as much.

redis-py opens the connection (URL, login, TLS, time-outs); this class then speaks over its socket
with hiredis' packer and reader. Several commands go out in one write.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import hiredis

from framegate.pipeline.contracts.errors import StoreLost
from framegate.pipeline.store.client import reply_fault, single, store_errors

DEAD_S = 30

Command = tuple[str | bytes, ...]


class Link:
    """One connection. Not thread-safe: one thread sends and receives."""

    def __init__(self, url: str) -> None:
        """Connect; StoreLost if the store is not there, StoreRefused if it says no."""
        self._url = url
        with store_errors(url):
            self._connection: Any = single(url).connection_pool.make_connection()
            self._connection.connect()
        sock = self._connection._sock  # redis-py has no public name for it
        if not isinstance(sock, socket.socket):
            raise StoreLost("the store's connection has no socket")
        sock.settimeout(None)
        _end_when_dead(sock)
        self._sock = sock
        self._decrypted = sock.pending if isinstance(sock, ssl.SSLSocket) else None
        self._reader = hiredis.Reader()
        self._next: Any = False  # False is what hiredis gives while there is no whole reply

    def again(self) -> Link:
        """Another connection to the same server."""
        return Link(self._url)

    def fileno(self) -> int:
        """The socket's descriptor, for polling."""
        return self._sock.fileno()

    def send(self, *commands: Command) -> None:
        """Write all commands in one go. StoreLost if the connection broke."""
        try:
            self._sock.sendall(b"".join(map(_pack, commands)))
        except OSError as error:
            raise StoreLost(f"the connection to the store broke: {error}") from error

    def receive(self) -> Any:
        """Wait for the next reply. StoreLost, StoreBusy or StoreRefused as the store says."""
        while not self.here():
            self.fill()
        reply, self._next = self._next, False
        return _raised(reply)

    def here(self) -> bool:
        """Return whether the next reply is here, whole; takes nothing from the socket."""
        if self._next is False:
            self._next = self._reader.gets()
        return self._next is not False

    def fill(self) -> None:
        """Take what the socket has; wait if it has nothing. StoreLost if the connection broke."""
        try:
            data = self._sock.recv(65536)
            while self._decrypted is not None and self._decrypted():
                data += self._sock.recv(65536)  # polling the socket would not tell of these
        except OSError as error:
            raise StoreLost(f"the connection to the store broke: {error}") from error
        if not data:
            raise StoreLost("the store closed the connection")
        self._reader.feed(data)

    def call(self, *command: str | bytes) -> Any:
        """Send one command and wait for its reply."""
        self.send(command)
        return self.receive()

    def close(self) -> None:
        """Close the socket."""
        self._connection.disconnect()


def readable(descriptors: Iterable[int], timeout_s: float | None = None) -> list[int]:
    """Return those that have something to read, or have ended; wait so long, None: for ever."""
    poll = select.poll()  # select.select ends at descriptor 1023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    timeout = None if timeout_s is None else math.ceil(timeout_s * 1000)
    return [descriptor for descriptor, _ in poll.poll(timeout)]


_pack: Callable[[Any], bytes] = hiredis.pack_command


def _raised(reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        raise reply_fault(str(reply))
    return reply


def _end_when_dead(sock: socket.socket) -> None:
    """A host that fell silent is a lost connection; blocking reads have no time-out."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_S // 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_S // 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
