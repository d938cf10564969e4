"""A blocking RESP connection for the hot path: what redis-py does there costs 4-7 times as much.

redis-py opens the connection (URL, password, TLS, time-outs); this class then speaks over its
socket with hiredis' packer and reader. Several commands go out in one write.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import hiredis
import redis

from pipeline.errors import StoreBusy, StoreLost, StoreRefused
from pipeline.redaction import remember_url

_BUSY = ("OOM", "MISCONF", "LOADING", "BUSY", "READONLY", "MASTERDOWN", "TRYAGAIN")

Command = tuple[str | bytes, ...]


class Link:
    """One connection. Not thread-safe: one thread sends and receives."""

    def __init__(self, url: str) -> None:
        """Connect; StoreLost if the store is not there, StoreRefused if it says no."""
        remember_url(url)
        pool = redis.Redis.from_url(url, protocol=2).connection_pool
        connection: Any = pool.make_connection()
        self._connection = connection
        try:
            self._connection.connect()
        except redis.AuthenticationError as error:
            raise StoreRefused(f"the store refuses the login: {error}") from error
        except redis.BusyLoadingError as error:
            raise StoreBusy(f"the store is loading its data: {error}") from error
        except (redis.RedisError, OSError) as error:
            raise StoreLost(f"the store is not there: {error}") from error
        sock = self._connection._sock  # redis-py has no public name for it
        if not isinstance(sock, socket.socket):
            raise StoreLost("the store's connection has no socket")
        sock.settimeout(None)
        self._sock = sock
        self._reader = hiredis.Reader()
        self._next: Any = False  # what hiredis says when there is no whole reply

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
        """Whether the next reply is here, whole; takes nothing from the socket."""
        if self._next is False:
            self._next = self._reader.gets()
        return self._next is not False

    def fill(self) -> None:
        """Take what the socket has; waits if it has nothing."""
        try:
            data = self._sock.recv(65536)
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


_pack: Callable[[Any], bytes] = hiredis.pack_command


def _raised(reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        text = str(reply)
        if "Function not found" in text:
            raise StoreRefused(
                f"the store was emptied or replaced while the run went on ({text}); nothing was "
                "restarted, start a new run"
            )
        if text.startswith(_BUSY):
            raise StoreBusy(f"the store takes no writes now: {text}")
        raise StoreRefused(text)
    return reply
