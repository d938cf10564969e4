"""Receive RTP that a camera sends over UDP beside its RTSP connection, and put it in order."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Final, NamedTuple

_MAX_HELD: Final = 256  # packets, each of at most 64 KB
_PATIENCE_S: Final = 0.1  # for a missing packet; FFmpeg's max_delay over UDP
_LEAP: Final = 3000  # numbers; a packet further away begins a new count (RFC 3550, A.1)
_NUMBERS: Final = 1 << 16
_PAIRS: Final = 100  # attempts to find two free ports
_BUFFER: Final = 1 << 20  # requested bytes; the kernel may give less
_MAX_AT_ONCE: Final = 256  # packets read from a socket before the other sockets have their turn
_SOURCE: Final = re.compile(r"source=([0-9A-Fa-f.:]{2,45})")
_SERVER_PORT: Final = re.compile(r"server_port=([0-9]{1,5})")
# An RTP packet without data: it opens the way back through a router or a firewall.
_OPENER: Final = struct.pack("!BBHII", 0x80, 0, 0, 0, 0)


class RtpOrder:
    """The packets of a track, in the order of their numbers. `now` is monotonic seconds.

    Invariant: `_next` is the number of the next packet to return, and all held packets are after
    it. Duplicates and late packets are dropped. A missing packet is awaited for a tenth of a second
    while at most _MAX_HELD others are held.
    """

    def __init__(self) -> None:
        self._next: int | None = None
        self._held: dict[int, bytes] = {}
        self._since = 0.0

    def add(self, packet: bytes, now: float) -> list[bytes]:
        """Take a packet; return the packets that are now in order."""
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
        """Return the packets that waited too long for a missing one."""
        return self._ready(now)

    def _ready(self, now: float) -> list[bytes]:
        ready = self._in_turn()
        if ready:
            self._since = now
        is_full = len(self._held) > _MAX_HELD
        if self._held and (is_full or now - self._since >= _PATIENCE_S):
            self._next = min(self._held, key=self._distance)
            self._since = now
            ready += self._in_turn()
        return ready

    def _in_turn(self) -> list[bytes]:
        packets = []
        while self._next is not None and self._next in self._held:
            packets.append(self._held.pop(self._next))
            self._next = (self._next + 1) % _NUMBERS
        return packets

    def _rest(self) -> list[bytes]:
        numbers = sorted(self._held, key=self._distance)
        rest = [self._held[number] for number in numbers]
        self._held.clear()
        return rest

    def _distance(self, number: int) -> int:
        assert self._next is not None
        return (number - self._next) % _NUMBERS


class Datagram(NamedTuple):
    """A packet of a track's RTP or, with `is_control`, of its RTCP."""

    track: int
    is_control: bool
    data: bytes


class _TrackSockets(NamedTuple):
    rtp: socket.socket
    rtcp: socket.socket
    order: RtpOrder


class RtspDatagrams:
    """The UDP sockets of a session, two for each track. One thread.

    It accepts packets only from the camera's host, and from the address that the camera names as
    `source`.
    """

    def __init__(self, connection: socket.socket) -> None:
        """connection: the RTSP connection."""
        self._connection = connection
        self._family = connection.family
        self._local = connection.getsockname()[0]
        self._peer = connection.getpeername()[0]
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
            raise OSError(f"no two adjacent free ports in {_PAIRS} attempts")
        for line in (rtp, rtcp):
            line.setblocking(False)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._poll.register(line, select.POLLIN)
        self._pairs.append(_TrackSockets(rtp, rtcp, RtpOrder()))
        return port

    def connect(self, track: int, transport: str) -> None:
        """Note the origin of a track from the camera's `Transport`, and open the way through a
        firewall. Packets are sent to the camera's host only, regardless of `Transport`.
        """
        source = _SOURCE.search(transport)
        port = _SERVER_PORT.search(transport)
        if source is not None:
            self._hosts.add(source[1])
        if port is not None and 0 < int(port[1]) < _NUMBERS - 1:
            self._ports[track] = int(port[1])
            self._send(self._pairs[track].rtp, track, 0, _OPENER)

    def report(self, data: bytes) -> None:
        """Send an RTCP packet to the camera for each track."""
        for track, pair in enumerate(self._pairs):
            self._send(pair.rtcp, track, 1, data)

    def receive(self, wait_s: float) -> tuple[list[Datagram], bool]:
        """Wait for packets or for the connection; return packets and whether it is readable.

        TimeoutError: neither came.
        """
        waits = any(pair.order.waits for pair in self._pairs)
        if waits:
            wait_s = min(wait_s, _PATIENCE_S)
        ready = {number for number, _ in self._poll.poll(round(wait_s * 1000))}
        packets: list[Datagram] = []
        for track, pair in enumerate(self._pairs):
            if pair.rtcp.fileno() in ready:
                packets += [Datagram(track, True, data) for data in self._read(pair.rtcp)]
            in_order: list[bytes] = []
            if pair.rtp.fileno() in ready:
                for data in self._read(pair.rtp):
                    in_order += pair.order.add(data, time.monotonic())
            in_order += pair.order.overdue(time.monotonic())
            packets += [Datagram(track, False, data) for data in in_order]
        if not ready and not waits:
            raise TimeoutError
        return packets, self._connection.fileno() in ready

    def close(self) -> None:
        for pair in self._pairs:
            pair.rtp.close()
            pair.rtcp.close()

    def _read(self, line: socket.socket) -> list[bytes]:
        packets = []
        # ConnectionError: an ICMP message that the port is closed at the camera.
        with suppress(BlockingIOError, ConnectionError):
            for _ in range(_MAX_AT_ONCE):
                data, address = line.recvfrom(_NUMBERS)
                if address[0] in self._hosts:
                    packets.append(data)
        return packets

    def _send(self, line: socket.socket, track: int, offset: int, data: bytes) -> None:
        if track in self._ports:
            with suppress(OSError):
                line.sendto(data, (self._peer, self._ports[track] + offset))
