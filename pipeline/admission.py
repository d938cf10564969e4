"""Accept connections at a port within bounds, whoever connects.

Both ports of a run use this: the HTTP port, and the store's port for readers (`--listen`). A
stranger costs nothing to refuse, so a full port lets a newcomer in and ends the connection that
needs its place least. A flood therefore cannot keep anybody out, and cannot fill the log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from typing import Final, Protocol

from framegate.pipeline.retry import OUT_OF_MEANS

log = logging.getLogger(__name__)

WAITING: Final = 128  # connections that the kernel keeps until they are accepted
GONE_S: Final = 60  # after which a silent host is taken for gone
BURST: Final = 16  # newcomers to a full port between two pauses
REST_S: Final = 0.1  # after an accept that failed
SAY_AGAIN_S: Final = 60.0


class Admitting(Protocol):
    """A port with a limited number of places. Lives in one event loop.

    name    of the port, for the log
    pace_s  pause for each newcomer to a full port, so that a flood costs little CPU
    """

    name: str
    pace_s: float

    @property
    def is_full(self) -> bool:
        """Return whether all places are taken."""

    def make_room(self) -> bool:
        """End the connection that needs its place least; return False if all need theirs."""

    async def admit(self, caller: socket.socket) -> None:
        """Serve a connection. It owns the socket, and closes it if it raises."""

    def refuse(self, caller: socket.socket) -> None:
        """Close a connection for which there is no place."""


async def admit_all(listening: socket.socket, port: Admitting) -> None:
    """Accept connections until cancelled."""
    listening.setblocking(False)  # else an accept would block the loop
    loop = asyncio.get_running_loop()
    said_mono, beyond = -math.inf, 0
    while True:
        try:
            caller, _ = await loop.sock_accept(listening)
            beyond += port.is_full
            await _admit(caller, port)
        except Exception as error:  # no descriptor or memory is left, or the connection is gone
            lacks_means = isinstance(error, OSError) and error.errno in OUT_OF_MEANS
            if lacks_means:
                port.make_room()
            if lacks_means and time.monotonic() - said_mono > SAY_AGAIN_S:
                said_mono = time.monotonic()
                log.warning("%s cannot accept a connection: %s; trying again", port.name, error)
            else:
                log.debug("%s: a connection could not be accepted: %s", port.name, error)
            await asyncio.sleep(REST_S)
        if beyond == BURST:
            beyond = 0
            await asyncio.sleep(BURST * port.pace_s)


async def _admit(caller: socket.socket, port: Admitting) -> None:
    if port.is_full and not port.make_room():
        port.refuse(caller)
    else:
        _end_when_gone(caller)
        await port.admit(caller)


def _end_when_gone(caller: socket.socket) -> None:
    """Have the kernel end the connection after its host has vanished."""
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_S // 2)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, GONE_S // 6)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def listening_at(host: str, port: int, waiting: int = WAITING) -> socket.socket:
    """Return a socket that listens and does not block. OSError.

    waiting  connections that the kernel keeps until they are accepted
    """
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(waiting)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
