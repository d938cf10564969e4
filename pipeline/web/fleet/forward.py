"""Requests that another host of the fleet answers, with the credentials of their caller.

This host adds no rights: it passes the token on, and the other host checks it. A forwarded request
has the header FORWARDED, and its receiver forwards it no further.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import h11
from starlette.requests import Request

from framegate.pipeline.fleet.recording_places import RecordingPlace
from framegate.pipeline.system.ports import host_and_port
from framegate.pipeline.web.accounts.sessions import COOKIE
from framegate.pipeline.web.limits import LIMITS, AtOnce, Refusal, Streamed

FORWARDED: Final = "framegate-forwarded"
CONNECT_S: Final = 3.0
HEAD_S: Final = 30.0  # for the head of the response: a clip is written before
PART_S: Final = 30.0  # for the next part of its body
HEAD_BYTES: Final = 64 << 10
PART_BYTES: Final = 64 << 10
_ASKED: Final = ("authorization", "accept", "range", "if-range", "last-event-id")
"""The headers of a request that are passed on; of its cookies, only those of Framegate are."""
_NOT_GIVEN: Final = ("connection", "keep-alive", "transfer-encoding", "server", "set-cookie")
"""The headers of a response that are not passed on."""
_TO_THE_LOGIN: Final = 303  # instead of 401, for a browser


@dataclass(frozen=True)
class OtherHost:
    """The HTTP port of another slot.

    slot  name of the slot
    host  its host name
    http  HOST:PORT of its HTTP port
    """

    slot: str
    host: str
    http: str

    def __str__(self) -> str:
        return f"slot {self.slot} on host {self.host} (http://{self.http})"


def is_forwarded(request: Request) -> bool:
    """Return whether another host forwarded this request."""
    return FORWARDED in request.headers


class Forwarder:
    """Sends requests to other hosts, a limited number at once. Use it in one event loop.

    Live pictures have a limit of their own: pages that stay open take no place of other requests.
    """

    def __init__(self, places: int = LIMITS.forwarded) -> None:
        """places: the requests at once, and as many for live pictures."""
        self._places = AtOnce(places, "requests to other hosts")
        self._live = AtOnce(places, "live pictures of other hosts")

    async def answer(
        self,
        request: Request,
        at: OtherHost,
        body: bytes = b"",
        places: Sequence[RecordingPlace] = (),
    ) -> Streamed:
        """Return the response of another host to a request.

        body    of a POST, which was read before
        places  hosts to name if this one does not answer
        Refusal if it does not answer in time, or does not accept the credentials of the caller.
        """
        # Of the scope: `request.url` also contains the header Host, which the caller writes.
        target = quote(request.scope["path"])
        query = request.scope["query_string"].decode("latin-1")
        if query:
            target += f"?{query}"
        with contextlib.ExitStack() as held:
            held.enter_context(self._places.taken())
            exchange = await self._asked(request, at, target, body, held, places)
            return Streamed(
                exchange.parts(), "", held.pop_all(), exchange.status, exchange.headers()
            )

    async def parts(
        self, request: Request, at: OtherHost, target: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body of another host's live pictures at `target`, in parts of any size.

        Refusal as in `answer`, and if its status is not 200.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(self._live.taken())
            exchange = await self._asked(request, at, target, b"", held, ())
            if exchange.status != 200:
                raise Refusal(503, f"{at}: status {exchange.status}")
            async for part in exchange.parts():
                yield part

    async def _asked(
        self,
        request: Request,
        at: OtherHost,
        target: str,
        body: bytes,
        held: contextlib.ExitStack,
        places: Sequence[RecordingPlace],
    ) -> _Exchange:
        """Send the request, and return its exchange, which `held` closes, with its head."""
        headers = [(name, request.headers[name]) for name in _ASKED if name in request.headers]
        headers += _own_cookies(request)
        headers += [("host", at.http), (FORWARDED, "1"), ("connection", "close")]
        if body:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        try:
            exchange = await _connected(at.http)
            held.callback(exchange.close)
            await exchange.send(request.method, target, headers, body)
        except (OSError, ValueError, h11.ProtocolError) as error:
            reason = str(error) or "no answer in time"
            raise Refusal(503, f"{at} does not answer: {reason}; try later", places) from None
        if exchange.status in (401, _TO_THE_LOGIN):
            raise Refusal(
                502,
                f"{at} does not accept the token of this request; give all slots the same token or "
                "the same accounts",
                places,
            )
        return exchange


def _own_cookies(request: Request) -> list[tuple[str, str]]:
    """Return the header with the cookies of Framegate, if there are any.

    A browser sends the cookies of a host to all its ports, also those of other programs.
    """
    cookies = [each.strip() for each in request.headers.get("cookie", "").split(";")]
    own = [each for each in cookies if each.startswith(COOKIE)]
    if not own:
        return []
    return [("cookie", "; ".join(own))]


async def _connected(http: str) -> _Exchange:
    """Connect to HOST:PORT. OSError, ValueError."""
    parts = host_and_port(http)
    if parts is None:
        raise ValueError(f"{http[:80]!r} is not an address")
    async with asyncio.timeout(CONNECT_S):
        return _Exchange(*await asyncio.open_connection(*parts, limit=PART_BYTES))


class _Exchange:
    """One request to another host and its response, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._head: h11.Response | None = None

    async def send(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        """Send the request and read the head of the response. OSError, h11.ProtocolError."""
        request = h11.Request(method=method, target=target, headers=headers)
        sent = self._protocol.send(request) or b""
        if body:
            sent += self._protocol.send(h11.Data(data=body)) or b""
        sent += self._protocol.send(h11.EndOfMessage()) or b""
        async with asyncio.timeout(HEAD_S):
            self._writer.write(sent)
            await self._writer.drain()
            event = await self._next()
            while isinstance(event, h11.InformationalResponse):
                event = await self._next()
        if not isinstance(event, h11.Response):
            raise ConnectionResetError("the connection ended before the response")
        self._head = event

    @property
    def status(self) -> int:
        """The status of the response."""
        assert self._head is not None
        return self._head.status_code

    def headers(self) -> dict[str, str]:
        """Return the headers of the response that the caller gets."""
        assert self._head is not None
        pairs = [(name.decode(), value.decode("latin-1")) for name, value in self._head.headers]
        return {name: value for name, value in pairs if name not in _NOT_GIVEN}

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body. h11.RemoteProtocolError if it ends early, or pauses for PART_S.

        The server then closes the connection of the caller, who sees that a part is missing.
        """
        while True:
            try:
                async with asyncio.timeout(PART_S):
                    event = await self._next()
            except OSError as error:
                raise h11.RemoteProtocolError(f"the response ended early: {error}") from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                return

    async def _next(self) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            self._protocol.receive_data(await self._reader.read(PART_BYTES))
        return event

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
