"""The connections of the HTTP port: how many there may be, and when one is ended.

A connection keeps its place while an allowed request of it is under way. Any other is idle: it
said nothing yet, is between two requests, or shows no token. An idle connection is ended after a
while, or as soon as a newcomer needs its place.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
import time
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from framegate.pipeline.system.ports import admit_all
from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.access import OPEN
from framegate.pipeline.web.limits import Refusal, WebLimits, refused

LEAVE_S: Final = 1  # for requests under way when the server is to end
LOOK_S: Final = 1.0  # between two looks for connections that take too long
PIECE: Final = 64 << 10  # of a body, that is sent at once
_HELD: Final = "framegate.held"  # in the scope of an allowed request under way


class RequestLimit:
    """Limit the allowed requests under way, and mark their connections as needed.

    What needs no token (health) is not limited, and holds no place.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most, self._open = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 503."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        if self._open >= self._most:
            busy = Refusal(503, f"{self._most} requests at once are answered; try again later")
            await refused(busy)(scope, receive, send)
            return
        self._open += 1
        scope[_HELD] = True
        try:
            await self._app(scope, receive, _in_pieces(send))
        finally:
            self._open -= 1
            del scope[_HELD]


def _in_pieces(send: Send) -> Send:
    """Send a body piece by piece, so that the request is under way until the client took it."""

    async def send_pieces(message: Message) -> None:
        body = message.get("body", b"")
        if not body:
            await send(message)
            return
        for begin in range(0, len(body), PIECE):
            piece = body[begin : begin + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not message.get("more_body", False):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_pieces


class Caller(H11Protocol):
    """A connection, and since when it is idle or takes nothing. See H11Protocol for the rest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        transport.set_write_buffer_limits(high=0)  # what is sent is sent, or not taken yet
        super().connection_made(transport)
        self.is_ended = False
        self._idle_mono = time.monotonic()
        self._full_mono = math.inf

    def on_response_complete(self) -> None:
        """Be idle from now on."""
        self._idle_mono = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note that the client takes nothing from now on."""
        self._full_mono = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client took all."""
        self._full_mono = math.inf
        super().resume_writing()

    @property
    def idle_mono(self) -> float:
        """Since when no allowed request is under way; inf while one is."""
        is_needed = self.scope is not None and _HELD in self.scope
        return math.inf if is_needed else self._idle_mono

    def is_overdue(self, now_mono: float, limits: WebLimits) -> bool:
        """Return whether the client takes too long to ask, or to take its answer."""
        takes_nothing = now_mono - self._full_mono > limits.take_s
        return takes_nothing or now_mono - self.idle_mono > limits.ask_s

    def end(self) -> None:
        """Close the connection at once. The kernel drops what the client did not take."""
        self.is_ended = True
        if self._full_mono != math.inf:
            caller = self.transport.get_extra_info("socket")
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


_THEIRS = (
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)
_AT_THE_END = "Cancel %s running task(s), timeout graceful shutdown exceeded"


class _OwnFaults(logging.Filter):
    """Lets through what is wrong with us: not that somebody speaks no HTTP, or breaks off."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        theirs = record.getMessage().startswith(_THEIRS) or isinstance(error, h11.ProtocolError)
        ends = record.msg == _AT_THE_END or isinstance(error, asyncio.CancelledError)
        return not (theirs or ends)


class BoundedServer(uvicorn.Server):
    """uvicorn with a limited number of connections, each of which must get on."""

    name = "the HTTP port"
    pace_s = 0.00025

    def __init__(self, app: ASGIApp, limits: WebLimits, **settings: Any) -> None:
        """settings: for uvicorn."""
        logging.getLogger("uvicorn.error").addFilter(_OwnFaults())
        super().__init__(
            uvicorn.Config(
                app,
                http=Caller,
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                date_header=False,
                timeout_keep_alive=math.ceil(limits.ask_s),
                **settings,
            )
        )
        self._limits = limits
        self._beside: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections at the first socket."""
        assert sockets is not None
        self.servers = []
        self._beside = [
            asyncio.create_task(admit_all(sockets[0], self)),
            asyncio.create_task(self._end_overdue()),
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and end what is under way."""
        await cancelled(*self._beside)
        await super().shutdown(sockets)

    async def _end_overdue(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now_mono = time.monotonic()
            for caller in self._callers():
                if caller.is_overdue(now_mono, self._limits):
                    caller.end()

    def _callers(self) -> list[Caller]:
        connections = list(self.server_state.connections)
        return [caller for caller in connections if isinstance(caller, Caller)]

    @property
    def is_full(self) -> bool:
        """Return whether all places are taken."""
        return len(self.server_state.connections) >= self._limits.connections

    def make_room(self) -> bool:
        """End the connection that is idle longest; return False if none is idle."""
        idle = [caller for caller in self._callers() if not caller.is_ended]
        longest = min(idle, key=lambda caller: caller.idle_mono, default=None)
        if longest is None or longest.idle_mono == math.inf:
            return False
        longest.end()
        return True

    async def admit(self, caller: socket.socket) -> None:
        """Serve HTTP to a connection."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, caller)
        except BaseException:
            caller.close()
            raise

    def refuse(self, caller: socket.socket) -> None:
        """Close it without a word."""
        caller.close()

    def _protocol(self) -> Caller:
        return Caller(self.config, self.server_state, {})
