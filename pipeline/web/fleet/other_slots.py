"""Pictures of sources that other slots of a fleet serve, as the routes of pictures need them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.fleet.forward import OtherHost
from framegate.pipeline.web.limits import NO_STORE, Refusal

Endpoint = Callable[[Request], Awaitable[Response]]


class OtherSlots(Protocol):
    """The sources that other slots serve; see framegate.pipeline.web.fleet.fleet.Fleet."""

    async def answer(self, request: Request, source: str) -> Response | None:
        """Return the response of the slot that serves a source; None if no other slot does."""

    def by_port(self, sources: Collection[str]) -> dict[OtherHost, list[str]]:
        """Return those of these sources that other slots serve, by HTTP port."""

    def pictures(
        self, request: Request, at: OtherHost, sources: Sequence[str]
    ) -> AsyncIterator[bytes]:
        """Yield the parts of /live of another slot."""


def answered_by_its_slot(endpoint: Endpoint, elsewhere: OtherSlots | None) -> Endpoint:
    """Return an endpoint that answers for a source of another slot with the response of that."""
    if elsewhere is None:
        return endpoint

    async def answer(request: Request) -> Response:
        try:
            response = await elsewhere.answer(request, request.path_params["source"])
        except Refusal as error:
            headers = dict(NO_STORE)
            if error.status == 503:
                headers["Retry-After"] = "1"
            return PlainTextResponse(f"{error}\n", error.status, headers)
        return response or await endpoint(request)

    answer.__doc__ = endpoint.__doc__
    return answer


async def joined(
    streams: Sequence[AsyncIterator[bytes]], ends: Callable[[], Awaitable[bool]], check_s: float
) -> AsyncIterator[bytes]:
    """Yield the parts of all streams as they come, until all end or `ends` returns True.

    check_s  seconds between two calls of `ends`
    """
    parts: asyncio.Queue[bytes] = asyncio.Queue(1)  # a slow viewer slows all of them

    async def copy(stream: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(stream) as copied:  # type: ignore[type-var]
            async for part in copied:
                await parts.put(part)

    copying = [asyncio.create_task(copy(stream)) for stream in streams]
    checked_mono = time.monotonic()
    try:
        while not all(task.done() for task in copying) or not parts.empty():
            with contextlib.suppress(TimeoutError):
                yield await asyncio.wait_for(parts.get(), check_s)
            if time.monotonic() - checked_mono >= check_s:
                checked_mono = time.monotonic()
                if await ends():
                    return
    finally:
        await cancelled(*copying)
