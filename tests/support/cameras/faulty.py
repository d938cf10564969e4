"""A TCP proxy in front of a camera: the network, and the camera itself, as they fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.support.cameras.background import Background
from tests.support.cameras.interleaved import Piece, Splitter

LOOPBACK = "127.0.0.1"


@dataclass
class Faults:
    """What the proxy does to what a camera sends; changed between two pieces.

    stalled        nothing gets through, nothing is closed
    pause_s        bytes are held back so long, then come at once; again and again
    spoil_every    the payload of one of so many media packets is damaged
    clock_ahead_s  the camera's clock, by its sender reports
    restart        time stamps of media restart at 0 from here
    bytes_per_s    a thin line
    """

    stalled: bool = False
    pause_s: float = 0.0
    spoil_every: int = 0
    clock_ahead_s: int = 0
    restart: bool = False
    bytes_per_s: float = 0.0


@dataclass(eq=False)
class _Line:
    """One connection; `zero` is the RTP time that counts as 0 once stamps restarted."""

    client: asyncio.StreamWriter
    camera: asyncio.StreamWriter | None = None
    splitter: Splitter = field(default_factory=Splitter)
    media: int = 0
    zero: dict[int, int] = field(default_factory=dict)


class FaultyLine:
    """A port that stays the same while what is behind it comes and goes.

    It starts as a camera that is off. Every method is for the test's thread.

    accepted   connections so far
    pictures   whole ones that got through so far
    spoilt     media packets damaged so far
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self.accepted = self.pictures = self.spoilt = 0
        self.faults = Faults()
        self._camera: int | None = None
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()
        # Bound but not listening: the port is ours, and whoever connects is refused.
        self._reserved = _socket(0)
        self.port: int = self._reserved.getsockname()[1]

    # -- the camera

    def on(self, camera: int | None) -> None:
        """Accept, and pass on to the camera on this port; None: accept and say nothing."""
        self._background.run(self._on(camera))

    def off(self) -> None:
        """Refuse, and cut all that is connected."""
        self._background.run(self._off())

    def cut(self) -> None:
        """Break all connections, without a farewell; new ones are accepted."""
        self._background.run(self._cut())

    def change(self, **faults: float | bool) -> None:
        """Set faults, the others stay."""
        for name, value in faults.items():
            setattr(self.faults, name, value)

    def close(self) -> None:
        """Off for good."""
        self.off()
        self._reserved.close()

    # -- in the loop

    async def _on(self, camera: int | None) -> None:
        self._camera = camera
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, sock=_socket(self.port))

    async def _off(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._cut()

    async def _cut(self) -> None:
        for line in list(self._lines):
            for writer in (line.client, line.camera):
                if writer is not None and not writer.is_closing():
                    _reset(writer)
        self._lines.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        line = _Line(writer)
        self._lines.add(line)
        try:
            if self._camera is None:
                await reader.read()
                return
            from_camera, line.camera = await asyncio.open_connection(LOOPBACK, self._camera)
            async with asyncio.TaskGroup() as both:
                both.create_task(_until_closed(self._requests(reader, line.camera)))
                both.create_task(_until_closed(self._answers(from_camera, line)))
        except (OSError, asyncio.CancelledError):  # asyncio would print the latter
            pass
        finally:
            self._lines.discard(line)
            for end in (line.client, line.camera):
                if end is not None:
                    end.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, line: _Line) -> None:
        while data := await reader.read(65536):
            pieces = [self._altered(piece, line) for piece in line.splitter.feed(data)]
            out = b"".join(map(bytes, pieces))
            if self.faults.pause_s:
                await asyncio.sleep(self.faults.pause_s)
            if self.faults.bytes_per_s:
                await asyncio.sleep(len(out) / self.faults.bytes_per_s)
            while self.faults.stalled:
                await asyncio.sleep(0.01)
            line.client.write(out)
            await line.client.drain()
            self.pictures += sum(piece.ends_picture for piece in pieces)
        line.client.close()

    def _altered(self, piece: Piece, line: _Line) -> Piece:
        faults = self.faults
        if faults.restart and (piece.is_rtp or piece.is_sender_report):
            assert piece.channel is not None
            zero = line.zero.setdefault(piece.channel // 2, piece.stamp)
            piece = piece.at(piece.stamp - zero)
        if faults.clock_ahead_s and piece.is_sender_report:
            piece = piece.later(faults.clock_ahead_s)
        if piece.is_rtp:
            line.media += 1
            if faults.spoil_every and line.media % faults.spoil_every == 0:
                self.spoilt += 1
                piece = piece.spoilt()
        return piece


def _socket(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((LOOPBACK, port))
    return found


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other end sees a reset, not an end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _until_closed(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(OSError):
        await work
