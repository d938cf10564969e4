"""What the HTTP port gives at once, how long it waits, and how it refuses more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.openapi import ApiFault

T = TypeVar("T")
NO_STORE: Final = {"Cache-Control": "no-store"}
JSON: Final = "application/json"


@dataclass(frozen=True)
class WebLimits:
    """All limits of the HTTP process.

    connections  at once; a newcomer takes the place of the one that is idle longest
    requests     under way at once, of those who may ask; fewer than connections, so that there is
                 always an idle one
    streams      of events and of pictures, together
    clips        made and sent at once
    trials       of rules at once
    ask_s        for which a connection may be idle, or take to send the head of a request
    body_s       for which the body of a request may take
    take_s       for which a client may take nothing of what is sent
    """

    connections: int = 256
    requests: int = 192
    streams: int = 64
    clips: int = 2
    trials: int = 1
    ask_s: float = 10.0
    body_s: float = 30.0
    take_s: float = 30.0

    @classmethod
    def within(cls, descriptors: int) -> WebLimits:
        """Return limits for a process that may have so many open files.

        A connection takes one, a stream another for its connection to the store. Half are left
        for the files and connections of other requests.
        """
        connections = min(cls.connections, max(16, descriptors // 4))
        return cls(connections, requests=connections * 3 // 4, streams=connections // 4)


LIMITS: Final = WebLimits()


class Refusal(Exception):
    """A request that cannot be done: the HTTP status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def refused(error: Exception) -> Response:
    """Return the answer that says why; what fails for another reason may succeed in a second."""
    status = error.status if isinstance(error, Refusal) else 503
    headers = {**NO_STORE, **({"Retry-After": "1"} if status == 503 else {})}
    return Response(msgspec.json.encode(ApiFault(str(error))), status, headers, JSON)


class AtOnce:
    """A limited number of places. One event loop: a place is counted where it is checked."""

    def __init__(self, most: int, what: str) -> None:
        """what: takes the places, in the plural."""
        self._most, self._what, self._taken = most, what, 0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Refusal if there is none."""
        if self._taken >= self._most:
            raise Refusal(503, f"{self._what}: {self._most} at once, and all are taken; try later")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def whole_number(asked: QueryParams, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number from the query. Refusal if it is none, or out of range."""
    text = asked.get(name)
    if text is None:
        return default
    is_short = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not (is_short and least <= int(text) <= most):
        raise Refusal(400, f"{name}: {text[:20]!r}; allowed: {least} to {most}")
    return int(text)


async def posted(request: Request, kind: type[T], most: int, body_s: float = LIMITS.body_s) -> T:
    """Read what is sent, JSON of at most so many bytes. Refusal.

    A page of another server could have its reader's browser send it: that is refused by where it
    comes from, and by a type that no form may send.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal(403, "it is taken from pages of this server alone")
    if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
        raise Refusal(415, f"it is to be JSON, with Content-Type: {JSON}")
    body = b""
    try:
        async with asyncio.timeout(body_s):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise Refusal(413, f"it has more than {most} bytes, as many as are allowed")
    except (TimeoutError, ClientDisconnect):
        raise Refusal(408, f"it was not sent within {body_s:g} s") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refusal(400, f"{error}; /api/v1/openapi.json lists what is allowed") from None


class Streamed(Response):
    """A response without an end of its own. Nothing is made ahead of what the client takes.

    It ends with the client's connection, which ends if the client takes nothing for too long.
    """

    def __init__(
        self, parts: AsyncIterator[bytes], media_type: str, held: contextlib.ExitStack
    ) -> None:
        """held: closed when it ends."""
        super().__init__(headers={**NO_STORE, "X-Accel-Buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self._parts, self._held = parts, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the parts end, or the client is gone."""
        with self._held:
            await while_connected(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async with contextlib.aclosing(self._parts) as parts:  # type: ignore[type-var]
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(answer: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run what sends an answer until it is done, or its client is gone."""
    sending = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(sending, leaving)
    if not sending.cancelled():
        sending.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
