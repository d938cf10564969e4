"""A blocking RESP connection for the hot path, where redis-py costs 4 to 7 times as much CPU.

redis-py opens the connection (URL, login, TLS, timeouts). Link then uses its socket with the packer
and the reader of hiredis, and sends several commands in one write.
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

DEAD_S = 30  # after which a silent host counts as lost

Command = tuple[str | bytes, ...]


class Link:
    """A connection to a server of the store. One thread sends and receives."""

    def __init__(self, url: str) -> None:
        """Connect. Raise StoreLost if the store is away, StoreRefused if it refuses."""
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
        self._decrypted: Callable[[], int] | None = None
        if isinstance(sock, ssl.SSLSocket):
            self._decrypted = sock.pending
        self._reader = hiredis.Reader()
        self._next: Any = False  # as hiredis: False while no complete reply has arrived

    def again(self) -> Link:
        """Return another connection to the same server."""
        return Link(self._url)

    def fileno(self) -> int:
        """Return the socket's descriptor, for polling."""
        return self._sock.fileno()

    def send(self, *commands: Command) -> None:
        """Write all commands in one go. Raise StoreLost if the connection breaks."""
        try:
            self._sock.sendall(b"".join(map(_pack, commands)))
        except OSError as error:
            raise StoreLost(f"the connection to the store broke: {error}") from error

    def receive(self) -> Any:
        """Wait for the next reply and return it.

        Raises StoreLost if the connection breaks; StoreBusy or StoreRefused if the reply is an
        error.
        """
        while not self.here():
            self.fill()
        reply = self._next
        self._next = False
        if isinstance(reply, hiredis.ReplyError):
            raise reply_fault(str(reply))
        return reply

    def here(self) -> bool:
        """Return whether the next reply has arrived completely. Does not read the socket."""
        if self._next is False:
            self._next = self._reader.gets()
        return self._next is not False

    def fill(self) -> None:
        """Read the socket; wait if it has no bytes. Raise StoreLost if the connection breaks."""
        try:
            data = self._sock.recv(65536)
            while self._decrypted is not None and self._decrypted():
                data += self._sock.recv(65536)  # a poll does not report decrypted bytes
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
    """Return the descriptors that can be read or are closed.

    timeout_s  maximum wait in seconds; None: no limit
    """
    poll = select.poll()  # select.select ends at descriptor 1023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    timeout = None
    if timeout_s is not None:
        timeout = math.ceil(timeout_s * 1000)
    return [descriptor for descriptor, _ in poll.poll(timeout)]


_pack: Callable[[Any], bytes] = hiredis.pack_command


def _end_when_dead(sock: socket.socket) -> None:
    """Make the kernel close the connection to a host that is silent: reads have no timeout."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_S // 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_S // 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
