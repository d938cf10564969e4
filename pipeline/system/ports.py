"""Addresses (HOST:PORT, origins of web pages) and ports that accept connections within bounds.

The HTTP port of a run and the store's port for readers (`--listen`) accept with `admit_all`. To
refuse a stranger costs nothing, so a full port lets a newcomer in and ends the connection that
needs its place least. A flood therefore cannot keep a reader out, and cannot fill the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import re
import socket
import time
from typing import Final, Protocol

from framegate.pipeline.system.retry import OUT_OF_MEANS

log = logging.getLogger(__name__)

OFF = ("off", "")
HTTP_DEFAULT = "127.0.0.1:8686"
HTTP_RULE = f"must be HOST:PORT, such as {HTTP_DEFAULT} or [::1]:8686, or off"
ORIGIN_RULE = "must be https://HOST, with its port if it has one, or * for any page"
STORE_RULE = "must be HOST:PORT, such as 127.0.0.1:6379 or [::1]:6379, with a port up to 65535"


def host_and_port(text: str) -> tuple[str, int] | None:
    """Return host and port of HOST:PORT or [HOST]:PORT; None for other texts."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([\w.-]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        return None
    host = match[1] or match[2]
    try:
        host.encode("idna")  # as a socket does: no part of the name may be empty
    except UnicodeError:
        return None
    return host, int(match[3])


def http_fault(text: str) -> str | None:
    """Return the fault in the form of a value of `http.listen`; None if there is none."""
    if text in OFF or host_and_port(text) is not None:
        return None
    return HTTP_RULE


def store_fault(text: str) -> str | None:
    """Return the fault in the form of an address for `--listen`; None if there is none."""
    parts = host_and_port(text)
    if parts is not None and parts[1] > 0:
        return None
    return STORE_RULE


def origin_fault(text: str) -> str | None:
    """Return the fault in the form of an origin of web pages; None if there is none."""
    if text == "*" or re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:\d{1,5})?", text):
        return None
    return ORIGIN_RULE


WAITING: Final = 128  # connections that the kernel keeps until they are accepted
GONE_S: Final = 60  # silence after which the kernel ends a connection
BURST: Final = 16  # newcomers to a full port between two pauses
REST_S: Final = 0.1  # after an accept that failed
LOG_AGAIN_S: Final = 60.0


class Admitting(Protocol):
    """A port with a limited number of places. All methods run in one event loop.

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
    listening.setblocking(False)  # a blocking accept would stop the loop
    loop = asyncio.get_running_loop()
    logged_mono = -math.inf
    beyond = 0  # newcomers to a full port since the last pause
    while True:
        try:
            caller, _ = await loop.sock_accept(listening)
            if port.is_full:
                beyond += 1
            await _admit(caller, port)
        except Exception as error:  # no descriptor or memory is left, or the connection has ended
            lacks_means = isinstance(error, OSError) and error.errno in OUT_OF_MEANS
            if lacks_means:
                port.make_room()
            if lacks_means and time.monotonic() - logged_mono > LOG_AGAIN_S:
                logged_mono = time.monotonic()
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
    """Make the kernel end the connection after its host has vanished."""
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_S // 2)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, GONE_S // 6)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def network_fault(text: str) -> str | None:
    """Return the fault of an address or a network of addresses; None if it is valid."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"{error}; allowed: 127.0.0.1, 10.0.0.0/8, fd00::/8"
    return None


def own_address(other: str | None) -> str:
    """Return the address of this host that packets to another host carry.

    other  name or address of that host, such as the one of the store

    The kernel is only asked for the route; no packet is sent. The host name is returned if that
    route stays on this host, or `other` is None or unknown.
    """
    if other:
        with contextlib.suppress(OSError):
            family, kind, _, _, place = socket.getaddrinfo(other, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as route:
                route.connect(place)
                own = str(route.getsockname()[0])
            if not ipaddress.ip_address(own.partition("%")[0]).is_loopback:
                return own
    return socket.gethostname()


def listening_at(host: str, port: int, waiting: int = WAITING) -> socket.socket:
    """Return a non-blocking socket that listens at an address. OSError if that fails.

    waiting  connections that the kernel keeps until they are accepted
    """
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(waiting)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
