"""Recordings on other hosts of a fleet: who has a time, and the response of one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.fleet.recording_places import (
    RecordingPlace,
    overlapping,
    own_key,
    places_of,
)
from framegate.pipeline.web.fleet.forward import Forwarder, OtherHost, is_forwarded
from framegate.pipeline.web.limits import Refusal, Streamed, refused
from framegate.pipeline.web.recordings.asked import asked_span

WITHIN_S: Final = 35.0  # for all hosts of a request; one needs up to 33 s to write a clip
NEXT_S: Final = 1.0  # a host that is silent so long does not delay the next one
ASKED_AT_ONCE: Final = 8  # hosts of a request

AskHost = Callable[[OtherHost], Coroutine[Any, Any, Streamed]]


class OtherHosts:
    """The recordings of other hosts of a fleet, as its store names them. Any thread."""

    def __init__(self, store: str, data: Path, forwarder: Forwarder) -> None:
        """Keep the parts.

        store      URL of the store; "": there is no fleet
        data       the run's folder, which is left out
        forwarder  sends requests to other hosts
        """
        self._forwarder = forwarder
        self._store = store
        self._own = own_key(data)

    def places(self, source: str, since: float, until: float) -> list[RecordingPlace]:
        """Return the places with recordings of a time; none if the store does not answer."""
        places: list[RecordingPlace] = []
        if self._store and is_name(source):
            with contextlib.suppress(FramegateError):
                places = places_of(self._store, source)
        return overlapping(places, self._own, since, until)

    async def answer(self, request: Request, refusal: Refusal) -> Response:
        """Return the response of a host that has what this one lacks, or the refusal.

        The hosts with recordings of the requested time are asked: see `first_response`. A refusal
        names all that did not answer.
        """
        if is_forwarded(request):
            return refused(refusal)
        refusal = await run_in_threadpool(self.named, request, refusal)

        async def ask(at: OtherHost) -> Streamed:
            return await self._forwarder.answer(request, at)

        places = refusal.places
        hosts = [OtherHost(each.slot, each.host, each.http) for each in places if each.http]
        response, unanswered = await first_response(ask, hosts)
        if response is not None:
            return response
        status = max([refusal.status, *(each.status for each in unanswered)])
        return refused(Refusal(status, "; ".join(map(str, [refusal, *unanswered])), places))

    def named(self, request: Request, refusal: Refusal) -> Refusal:
        """Return the refusal of a request; a 404 names the hosts that have the requested time."""
        if refusal.status != 404:
            return refusal
        try:
            span = asked_span(request.query_params)
        except Refusal:  # a time that cannot be read, of a request that does not need it
            return refusal
        places = self.places(request.path_params["source"], *span)
        if not places:
            return refusal
        listed = "; ".join(place.words for place in places)
        return Refusal(404, f"{refusal}; another host has recordings: {listed}", places)


async def first_response(
    ask: AskHost, hosts: Sequence[OtherHost], within_s: float = WITHIN_S, next_s: float = NEXT_S
) -> tuple[Streamed | None, list[Refusal]]:
    """Return the first response of these hosts that is not a 404, and why hosts did not answer.

    The hosts are asked in their order. The next one is asked when one has refused, or after
    `next_s`, so that a silent host delays the response little, and yet a clip is usually written by
    one host only. Up to ASKED_AT_ONCE are asked at the same time, and all together get `within_s`.

    ask  sends the request to a host; it raises Refusal if that does not answer
    """
    left = list(hosts)
    asked: dict[asyncio.Task[Streamed], OtherHost] = {}
    unanswered: list[Refusal] = []
    loop = asyncio.get_running_loop()
    ends = loop.time() + within_s
    try:
        while (left or asked) and loop.time() < ends:
            if left and len(asked) < ASKED_AT_ONCE:
                host = left.pop(0)
                asked[asyncio.create_task(ask(host))] = host
            wait_s = ends - loop.time()
            if left and len(asked) < ASKED_AT_ONCE:
                wait_s = min(wait_s, next_s)
            await asyncio.wait(asked, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in [each for each in asked if each.done()]:
                del asked[task]
                response = _response_of(task, unanswered)
                if response is not None:
                    return response, unanswered
        late = f"does not answer within {within_s:g} s; try later"
        unanswered += [Refusal(503, f"{host} {late}") for host in asked.values()]
        unasked = f"was not asked within {within_s:g} s; try later"
        unanswered += [Refusal(503, f"{host} {unasked}") for host in left]
        return None, unanswered
    finally:
        await _abandoned(asked)


def _response_of(task: asyncio.Task[Streamed], unanswered: list[Refusal]) -> Streamed | None:
    """Return the response of a host that answered; None if it is a 404, or if there is none.

    unanswered  gets the reason in the last case
    """
    try:
        response = task.result()
    except Refusal as refusal:
        unanswered.append(refusal)
        return None
    if response.status_code == 404:
        response.close()
        return None
    return response


async def _abandoned(tasks: Iterable[asyncio.Task[Streamed]]) -> None:
    """Cancel requests, and close the responses that are there already."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Streamed):
            result.close()
