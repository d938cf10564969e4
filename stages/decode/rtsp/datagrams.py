"""Receive RTP that a camera sends over UDP beside its RTSP connection, and put it in order."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Final, NamedTuple

_MOST_HELD: Final = 256  # packets of 64 KB at most
_PATIENCE_S: Final = 0.1  # for a packet that is missing; FFmpeg's max_delay over UDP
_LEAP: Final = 3000  # numbers; a packet further away begins a new count (RFC 3550, A.1)
_NUMBERS: Final = 1 << 16
_PAIRS: Final = 100  # that are tried
_BUFFER: Final = 1 << 20  # asked for; the kernel may give less
_MOST_AT_ONCE: Final = 256  # packets of a socket, before the others have their turn
_SOURCE: Final = re.compile(r"source=([0-9A-Fa-f.:]{2,45})")
_SERVER_PORT: Final = re.compile(r"server_port=([0-9]{1,5})")
# An RTP packet without data: it opens the way back through a router or a firewall.
_OPENER: Final = struct.pack("!BBHII", 0x80, 0, 0, 0, 0)


class RtpOrder:
    """Puts the packets of a track in the order of their numbers. Pure: `now` is monotonic seconds.

    A packet that comes twice, or after its turn, is left out. A missing one is waited for a tenth
    of a second, while at most _MOST_HELD others are held.
    """

    def __init__(self) -> None:
        self._next: int | None = None
        self._held: dict[int, bytes] = {}
        self._since = 0.0

    def add(self, packet: bytes, now: float) -> list[bytes]:
        """Take a packet; return those whose turn it is."""
        if len(packet) < 4:
            return []
        number = int.from_bytes(packet[2:4])
        if self._next is None:
            self._next = number
        distance = (number - self._next + _NUMBERS // 2) % _NUMBERS - _NUMBERS // 2
        if abs(distance) > _LEAP:
            before = self._rest()
            self._next = (number + 1) % _NUMBERS
            return [*before, packet]
        if distance >= 0:
            if not self._held:
                self._since = now
            self._held.setdefault(number, packet)
        return self._ready(now)

    @property
    def waits(self) -> bool:
        """Return whether packets are held because one is missing."""
        return bool(self._held)

    def overdue(self, now: float) -> list[bytes]:
        """Return those that waited too long for a missing one."""
        return self._ready(now)

    def _ready(self, now: float) -> list[bytes]:
        ready = self._in_turn()
        if ready:
            self._since = now
        is_full = len(self._held) > _MOST_HELD
        if self._held and (is_full or now - self._since >= _PATIENCE_S):
            self._next = min(self._held, key=self._distance)
            self._since = now
            ready += self._in_turn()
        return ready

    def _in_turn(self) -> list[bytes]:
        found = []
        while self._next is not None and self._next in self._held:
            found.append(self._held.pop(self._next))
            self._next = (self._next + 1) % _NUMBERS
        return found

    def _rest(self) -> list[bytes]:
        numbers = sorted(self._held, key=self._distance)
        rest = [self._held[number] for number in numbers]
        self._held.clear()
        return rest

    def _distance(self, number: int) -> int:
        assert self._next is not None
        return (number - self._next) % _NUMBERS


class Datagram(NamedTuple):
    """A packet of a track; with `is_control`, of its RTCP."""

    track: int
    is_control: bool
    data: bytes


class _TrackSockets(NamedTuple):
    rtp: socket.socket
    rtcp: socket.socket
    order: RtpOrder


class RtspDatagrams:
    """The UDP sockets of a session: two for each track. One thread.

    Only what comes from the camera's host is taken, or from the address that it names as `source`.
    """

    def __init__(self, connection: socket.socket) -> None:
        """connection: that RTSP is spoken over."""
        self._connection = connection
        self._family = connection.family
        self._local, self._peer = connection.getsockname()[0], connection.getpeername()[0]
        self._hosts = {self._peer}
        self._pairs: list[_TrackSockets] = []
        self._ports: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def bind(self) -> int:
        """Open the sockets of one more track; return the first of its two ports. OSError."""
        for _ in range(_PAIRS):
            rtp = socket.socket(self._family, socket.SOCK_DGRAM)
            rtcp = socket.socket(self._family, socket.SOCK_DGRAM)
            try:
                rtp.bind((self._local, 0))
                port: int = rtp.getsockname()[1]
                if port % 2 == 0:  # RFC 3550, 11
                    rtcp.bind((self._local, port + 1))
                    break
            except OSError:
                pass  # the next port is in use
            rtp.close()
            rtcp.close()
        else:
            raise OSError(f"no two free ports in {_PAIRS} tries")
        for each in (rtp, rtcp):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._poll.register(each, select.POLLIN)
        self._pairs.append(_TrackSockets(rtp, rtcp, RtpOrder()))
        return port

    def connect(self, track: int, transport: str) -> None:
        """Take note of where a track comes from, as the camera's `Transport` says, and open the
        way. Whatever that says, nothing is sent to another host.
        """
        source, port = _SOURCE.search(transport), _SERVER_PORT.search(transport)
        if source is not None:
            self._hosts.add(source[1])
        if port is not None and 0 < int(port[1]) < _NUMBERS - 1:
            self._ports[track] = int(port[1])
            self._send(self._pairs[track].rtp, track, 0, _OPENER)

    def report(self, data: bytes) -> None:
        """Send a packet of RTCP to the camera, for each track."""
        for track, pair in enumerate(self._pairs):
            self._send(pair.rtcp, track, 1, data)

    def receive(self, wait_s: float) -> tuple[list[Datagram], bool]:
        """Wait for packets, or until the connection has something to read; return both.

        TimeoutError: there was neither.
        """
        waits = any(pair.order.waits for pair in self._pairs)
        if waits:
            wait_s = min(wait_s, _PATIENCE_S)
        ready = {number for number, _ in self._poll.poll(round(wait_s * 1000))}
        found: list[Datagram] = []
        for track, pair in enumerate(self._pairs):
            if pair.rtcp.fileno() in ready:
                found += [Datagram(track, True, data) for data in self._taken(pair.rtcp)]
            if pair.rtp.fileno() in ready:
                for data in self._taken(pair.rtp):
                    in_turn = pair.order.add(data, time.monotonic())
                    found += [Datagram(track, False, each) for each in in_turn]
            overdue = pair.order.overdue(time.monotonic())
            found += [Datagram(track, False, each) for each in overdue]
        if not ready and not waits:
            raise TimeoutError
        return found, self._connection.fileno() in ready

    def close(self) -> None:
        """Close the sockets."""
        for pair in self._pairs:
            pair.rtp.close()
            pair.rtcp.close()

    def _taken(self, line: socket.socket) -> list[bytes]:
        found = []
        with suppress(BlockingIOError, ConnectionError):  # an ICMP message that none listens there
            for _ in range(_MOST_AT_ONCE):
                data, address = line.recvfrom(_NUMBERS)
                if address[0] in self._hosts:
                    found.append(data)
        return found

    def _send(self, line: socket.socket, track: int, more: int, data: bytes) -> None:
        if track in self._ports:
            with suppress(OSError):
                line.sendto(data, (self._peer, self._ports[track] + more))
