"""The limits of the HTTP port, and the requests that it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from framegate.pipeline.client.when import time_of
from framegate.pipeline.fleet.recording_places import RecordingPlace
from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.openapi import ApiFault

T = TypeVar("T")
NO_STORE: Final = {"Cache-Control": "no-store"}
JSON: Final = "application/json"
HOSTS: Final = "framegate.hosts"
"""Key in the scope of a request: the HOST:PORT by which browsers may know this server."""


@dataclass(frozen=True)
class WebLimits:
    """All limits of the HTTP process.

    connections  connections at once; a new one takes the place of the one that is idle longest
    requests     allowed requests under way at once; fewer than connections, so that one is idle
    streams      streams of events and of pictures at once, together
    forwarded    requests that other hosts of the fleet answer at once; also the live pictures of
                 other hosts, one for each open page and host
    clips        clips made and sent at once
    trials       trials of rules at once
    ask_s        seconds for which a connection may be idle, or take to send the head of a request
    body_s       seconds that a client may take to send the body of a request
    take_s       seconds for which a client may read nothing of its response
    """

    connections: int = 256
    requests: int = 192
    streams: int = 64
    forwarded: int = 64
    clips: int = 2
    trials: int = 1
    ask_s: float = 10.0
    body_s: float = 30.0
    take_s: float = 30.0

    @classmethod
    def within(cls, descriptors: int) -> WebLimits:
        """Return limits for a process that may open `descriptors` files.

        A connection takes one, and a stream one more for its connection to the store. A forwarded
        request takes one for its connection to the other host, and so do live pictures of other
        hosts. Half of the descriptors stay free for the files and store connections of other
        requests.
        """
        connections = min(cls.connections, max(16, descriptors // 4))
        share = connections // 4
        return cls(connections, requests=3 * share, streams=share, forwarded=share)


LIMITS: Final = WebLimits()


class Refusal(Exception):
    """A request that is not done: its HTTP status and the reason.

    places  hosts of the fleet that have what this one lacks
    """

    def __init__(self, status: int, reason: str, places: Sequence[RecordingPlace] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.places = places


def refused(error: Exception) -> Response:
    """Return the response to a request that failed. Errors except Refusal are temporary: 503."""
    status = 503
    places: Sequence[RecordingPlace] = ()
    if isinstance(error, Refusal):
        status, places = error.status, error.places
    headers = dict(NO_STORE)
    if status == 503:
        headers["Retry-After"] = "1"
    return Response(msgspec.json.encode(ApiFault(str(error), places)), status, headers, JSON)


def not_served(request: Request, error: Exception) -> Response:
    """Return the response to a path or a method that no route serves: JSON below /api/v1."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    reason = f"there is no {path[:200]}; /api/v1/openapi.json describes the paths below /api/v1"
    if error.status_code == 405:
        allowed = " or ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        reason = f"{path[:200]} takes {allowed}, not {request.method[:32]}"
    if not path.startswith("/api/"):
        return PlainTextResponse(f"{reason}\n", error.status_code, error.headers)
    response = refused(Refusal(error.status_code, reason))
    response.headers.update(error.headers or {})
    return response


class AtOnce:
    """A limited number of places. Use it in one event loop; it has no lock."""

    def __init__(self, places: int, users: str, of_address: int | None = None) -> None:
        """Keep the numbers.

        users       noun in the plural for messages, such as "streams"
        of_address  places that one address may take; None: all
        """
        self._places = places
        self._users = users
        self._of_address = of_address
        self._taken = 0
        self._taken_by: Counter[str] = Counter()

    @contextlib.contextmanager
    def taken(self, address: str = "") -> Iterator[None]:
        """Occupy a place during the block. Refusal if all are taken."""
        if self._taken >= self._places:
            reason = f"{self._places} {self._users} are in progress, which is the limit; try later"
            raise Refusal(503, reason)
        if self._of_address is not None and self._taken_by[address] >= self._of_address:
            users = f"{self._of_address} {self._users} of one address"
            raise Refusal(503, f"{users} are in progress, which is the limit; try later")
        self._taken += 1
        self._taken_by[address] += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._taken_by[address] -= 1
            if not self._taken_by[address]:
                del self._taken_by[address]


def whole_number(query: QueryParams, name: str, default: int, min_: int, max_: int) -> int:
    """Return an integer from the query. Refusal if it is not a number, or out of range."""
    text = query.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(max_))
    if not (is_number and min_ <= int(text) <= max_):
        raise Refusal(400, f"{name}: {text[:20]!r}; allowed: {min_} to {max_}")
    return int(text)


def time_in(query: QueryParams, name: str) -> float | None:
    """Return a time from the query, UNIX seconds; None if it is not given. Refusal."""
    text = query.get(name)
    if not text:
        return None
    try:
        return time_of(text, time.time())
    except ValueError as error:
        raise Refusal(400, f"{name} {error}") from None


def check_origin(origin: str, hosts: Collection[str]) -> None:
    """Raise Refusal if a request is from a page of another server.

    origin  the header of the request; "": it has none
    hosts   the HOST:PORT by which browsers may know this server
    """
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # such as http://[
        host = ""
    if not host or host not in hosts:
        raise Refusal(403, f"the origin {origin[:80]!r} is not this server")


async def posted(
    request: Request, kind: type[T], max_bytes: int, body_s: float = LIMITS.body_s
) -> T:
    """Read the JSON body of a request.

    Refusal if it is invalid, too large or too slow, of another type than JSON, or from a page of
    another server.

    A page of another server could make its reader's browser send the request. The check of the
    origin refuses that, and the check of the type refuses forms, which need no permission to send.
    """
    origin = request.headers.get("origin")
    if origin is not None:
        check_origin(origin, request.scope.get(HOSTS, [request.headers.get("host", "")]))
    if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
        raise Refusal(415, f"the body must be JSON, with Content-Type: {JSON}")
    body = b""
    try:
        async with asyncio.timeout(body_s):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise Refusal(413, f"the body has more than {max_bytes} bytes")
    except (TimeoutError, ClientDisconnect):
        raise Refusal(408, f"the body was not sent within {body_s:g} s") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refusal(400, f"{error}; /api/v1/openapi.json lists the allowed values") from None


class Streamed(Response):
    """A response in parts, often endless. The next part is made when the client took the last one.

    It ends with the client's connection, which the server closes if the client reads nothing.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        media_type: str,
        held: contextlib.ExitStack,
        status: int = 200,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Keep the parts.

        held     closed when the response ends
        headers  in addition to those of a response that is not cached, or in their place
        """
        usual = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(None, status, {**usual, **headers}, media_type or None)
        if "content-length" not in headers:
            del self.headers["content-length"]
        self._parts = parts
        self._held = held

    def close(self) -> None:
        """Close what the response holds. A response that is not sent needs this."""
        self._held.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the parts until they end or the client disconnects."""
        with self._held:
            await while_connected(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        head = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(head)
        async with contextlib.aclosing(self._parts) as parts:  # type: ignore[type-var]
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(answer: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run `answer`, which sends a response, until it is done or the client disconnects."""
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
