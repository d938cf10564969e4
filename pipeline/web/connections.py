"""The connections of the HTTP port: their number and their lifetimes are bounded.

A connection keeps its place while it has an allowed request under way. Any other connection is
idle: it has sent nothing, is between two requests, or has no token. The server closes an idle
connection after a while, or earlier if a new connection needs its place.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
import struct
import time
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from framegate.pipeline.system.ports import admit_all
from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.accounts.access import OPEN
from framegate.pipeline.web.limits import Refusal, WebLimits, refused
from framegate.pipeline.web.tls import PortCertificate, wants_tls

log = logging.getLogger(__name__)

LEAVE_S: Final = 1  # for requests under way when the server ends
LOOK_S: Final = 1.0  # between two checks for connections that take too long
PIECE: Final = 64 << 10  # bytes of a body that are sent at once
_HELD: Final = "framegate.held"  # in the scope of an allowed request under way


class RequestLimit:
    """Middleware that limits the allowed requests under way and marks their connections as needed.

    Health checks need no token; they are not limited, and their connections count as idle.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app = app
        self._max_requests = max_requests
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or answer 503."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        if self._open >= self._max_requests:
            busy = Refusal(
                503, f"{self._max_requests} requests are in progress, which is the limit; try later"
            )
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
    """Return a `send` that sends a body in pieces.

    Each piece waits until the client took the one before, so the request counts as under way until
    the client took the last one.
    """

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


class HttpConnection(H11Protocol):
    """A connection that notes since when it is idle, and since when its client reads nothing.

    The methods without a docstring are those of asyncio.Protocol and H11Protocol.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_mono = time.monotonic()
        self._full_mono = math.inf
        # No buffer: writing pauses unless the kernel took all data.
        high = 0
        if transport.get_extra_info("sslcontext") is not None:
            high = 1  # of 0, even an empty buffer is too full for the TLS of asyncio
        transport.set_write_buffer_limits(high=high, low=0)
        self.is_ended = False

    def on_response_complete(self) -> None:
        self._idle_mono = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._full_mono = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._full_mono = math.inf
        super().resume_writing()

    @property
    def idle_mono(self) -> float:
        """The time since which no allowed request is under way; inf while one is."""
        if self.scope is not None and _HELD in self.scope:
            return math.inf
        return self._idle_mono

    def is_overdue(self, now_mono: float, limits: WebLimits) -> bool:
        """Return whether the client takes too long to send a request or to read its response."""
        reads_nothing = now_mono - self._full_mono > limits.take_s
        return reads_nothing or now_mono - self.idle_mono > limits.ask_s

    def end(self) -> None:
        """Close the connection at once. The kernel drops data that the client has not read."""
        self.is_ended = True
        if self._full_mono != math.inf:
            # SO_LINGER of 0 s: reset the connection instead of keeping unread data for minutes.
            caller = self.transport.get_extra_info("socket")
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


_CLIENT_FAULTS = (
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)
_AT_THE_END = "Cancel %s running task(s), timeout graceful shutdown exceeded"


class _OwnFaults(logging.Filter):
    """A filter of uvicorn's log that drops faults of clients and the end of the server."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = None
        if record.exc_info:
            error = record.exc_info[1]
        is_client_fault = record.getMessage().startswith(_CLIENT_FAULTS)
        is_end = record.msg == _AT_THE_END
        is_expected = isinstance(error, h11.ProtocolError | asyncio.CancelledError)
        return not (is_client_fault or is_end or is_expected)


class BoundedServer(uvicorn.Server):
    """uvicorn with at most `limits.connections` connections, none of which is stuck for long.

    `admit_all` accepts the connections: it uses `name`, `pace_s`, `is_full`, `make_room`, `admit`
    and `refuse`.
    """

    name = "the HTTP port"
    pace_s = 0.00025  # pause for each new connection to a full port

    def __init__(
        self,
        app: ASGIApp,
        limits: WebLimits,
        certificate: PortCertificate | None = None,
        **settings: Any,
    ) -> None:
        """certificate: None: without TLS. settings: of uvicorn."""
        logging.getLogger("uvicorn.error").addFilter(_OwnFaults())
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpConnection,
                ws="none",
                proxy_headers=False,  # access.py decides which proxies are believed
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
        self._certificate = certificate
        self._greetings: list[asyncio.Task[None]] = []  # TLS handshakes, the oldest first

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections at the first socket."""
        assert sockets is not None
        self.servers = []
        self._beside = [
            asyncio.create_task(admit_all(sockets[0], self)),
            asyncio.create_task(self._end_overdue()),
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and end the requests under way."""
        await cancelled(*self._beside, *self._greetings)
        await super().shutdown(sockets)

    async def _end_overdue(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now_mono = time.monotonic()
            for caller in self._callers():
                if caller.is_overdue(now_mono, self._limits):
                    caller.end()

    def _callers(self) -> list[HttpConnection]:
        connections = list(self.server_state.connections)
        return [caller for caller in connections if isinstance(caller, HttpConnection)]

    @property
    def is_full(self) -> bool:
        """Return whether all places are taken."""
        taken = len(self.server_state.connections) + len(self._greetings)
        return taken >= self._limits.connections

    def make_room(self) -> bool:
        """Close the connection that is idle longest, else the oldest without a handshake.

        Return False if there is none.
        """
        idle = [caller for caller in self._callers() if not caller.is_ended]
        longest = min(idle, key=lambda caller: caller.idle_mono, default=None)
        if longest is not None and longest.idle_mono != math.inf:
            longest.end()
            return True
        if self._greetings:
            self._greetings.pop(0).cancel()
            return True
        return False

    async def admit(self, caller: socket.socket) -> None:
        """Serve HTTP to a connection, after the handshake of TLS if there is a certificate."""
        if self._certificate is None:
            await self._serve_connection(caller, None)
            return
        # Its own task: a client that sends nothing must not delay the next one.
        greeting = asyncio.create_task(self._greet(caller, self._certificate))
        self._greetings.append(greeting)
        greeting.add_done_callback(self._end_greeting)

    def _end_greeting(self, greeting: asyncio.Task[None]) -> None:
        if greeting in self._greetings:
            self._greetings.remove(greeting)

    async def _greet(self, caller: socket.socket, certificate: PortCertificate) -> None:
        try:
            async with asyncio.timeout(self._limits.ask_s):
                context = None
                if await wants_tls(caller):
                    context = certificate.context()
                await self._serve_connection(caller, context)
        except (OSError, ssl.SSLError, TimeoutError) as error:  # of the client
            log.debug("%s: a connection without a handshake: %s", self.name, error)
            caller.close()
        except asyncio.CancelledError:
            caller.close()
            raise

    async def _serve_connection(
        self, caller: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._protocol, caller, ssl=context)
        except BaseException:
            caller.close()
            raise

    def refuse(self, caller: socket.socket) -> None:
        """Close a connection without a response."""
        caller.close()

    def _protocol(self) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, {})
