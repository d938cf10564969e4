"""A link in user space: `-m tests.support.shaping LISTEN TO`, told line by line.

Between whoever connects to LISTEN (HOST:PORT) and TO (HOST:PORT, or the path of a unix socket) it
keeps a delay and a rate for each direction, stalls where packets would be lost, and can be cut. A
line on standard input is a Shape as JSON; it prints `ready`, then a line for each.

What it is not: TCP behind it sees no loss, so windows do not shrink, and after a cut what was held
goes on at once, where a real sender would wait out its last doubling.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any

SEGMENT = 1448
CHUNK = 8 * SEGMENT
HELD = 64  # chunks of a connection that may be on their way
RETRANSMIT_S = 0.2  # where no later packet tells of a loss


@dataclass(frozen=True)
class Shape:
    """One way of a link: seconds of delay, bytes a second, share of packets lost; or it is cut."""

    delay_s: float = 0.0
    rate: float = math.inf
    loss: float = 0.0
    is_cut: bool = False

    def line(self) -> bytes:
        """As the proxy reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Direction:
    """All connections' bytes one way: they share the rate."""

    def __init__(self, link: Link) -> None:
        self._link, self._free_at = link, 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the sender has ended, which the receiver hears of."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(reader, under_way))
            group.create_task(self._arrive(under_way, writer))

    async def _send(
        self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        arrives = 0.0
        while data := await reader.read(CHUNK):
            shape = self._link.shape
            self._free_at = max(time.monotonic(), self._free_at) + len(data) / shape.rate
            # A lost packet holds up all that is behind it in its connection.
            arrives = max(arrives, self._free_at + shape.delay_s) + _stall_s(shape, len(data))
            await under_way.put((arrives, data))
        await under_way.put((arrives, b""))

    async def _arrive(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            arrives, data = await under_way.get()
            await asyncio.sleep(arrives - time.monotonic())
            await self._link.whole.wait()
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


def _stall_s(shape: Shape, n_bytes: int) -> float:
    """Each lost packet costs a round trip; one in ten is the last for a while, and waits longer."""
    stall = 0.0
    for _ in range(math.ceil(n_bytes / SEGMENT)):
        if random.random() < shape.loss:
            stall += RETRANSMIT_S if random.random() < 0.1 else 2 * shape.delay_s
    return stall


class Link:
    """Both ways, of one shape."""

    def __init__(self, to: str) -> None:
        self.shape, self._to = Shape(), to
        self.whole = asyncio.Event()
        self.whole.set()
        self._up, self._down = Direction(self), Direction(self)
        self._connections = set[asyncio.Task[None] | None]()  # asyncio does not keep all of them

    def take(self, shape: Shape) -> None:
        """It is like this from now on."""
        self.shape = shape
        if shape.is_cut:
            self.whole.clear()
        else:
            self.whole.set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody came."""
        connection = asyncio.current_task()
        self._connections.add(connection)
        try:
            await self._carry(reader, writer)
        finally:
            self._connections.discard(connection)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.whole.wait()
        try:
            there, back = await self._open()
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up.carry(reader, back))
                group.create_task(self._down.carry(there, writer))
        except* OSError:
            pass  # one side broke off: the other hears of it
        finally:
            back.close()
            writer.close()

    def _open(self) -> Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._to.startswith("/"):
            return asyncio.open_unix_connection(self._to)
        host, _, port = self._to.rpartition(":")
        return asyncio.open_connection(host, int(port))


async def main(listen: str, to: str) -> None:
    """Serve until standard input ends."""
    link = Link(to)
    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(link.connect, host, int(port))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    print("ready", flush=True)
    while line := await lines.readline():
        link.take(Shape(**json.loads(line)))
        print("taken", flush=True)
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
