"""A fleet as the port of one slot sees it: all sources, the slots that serve them, and targets.

/api/v1/fleet/targets     HTTP ports of all slots, as Prometheus discovers them
/api/v1/fleet/recordings  the hosts with recordings of each source
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from typing import Annotated, Final
from urllib.parse import urlencode

import h11
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.fleet.recording_places import RecordingPlace, all_places
from framegate.pipeline.fleet.served_by import FleetNow, ServedBy, read_fleet
from framegate.pipeline.web.fleet.forward import Forwarder, OtherHost, is_forwarded
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, Streamed
from framegate.pipeline.web.openapi import Operation
from framegate.pipeline.web.route_table import caller_of

log = logging.getLogger(__name__)

FRESH_S: Final = 1.0
ASK_AGAIN_S: Final = 3.0  # another slot for its live pictures
PART_BYTES: Final = 16 << 20  # of a picture in /live


def port_of(now: FleetNow, source: str) -> OtherHost:
    """Return the HTTP port of the slot that serves a source. Refusal if none is reachable."""
    served = now.served_by(source)
    sign = now.signs.get(served.slot or "")
    if served.slot is None or sign is None:
        raise Refusal(503, f"source {source}: {served.away}; try later")
    if not sign.http:
        raise Refusal(
            503,
            f"source {source}: slot {served.slot} on host {sign.host} serves it, and other hosts "
            "cannot reach its HTTP port; start it with --http 0.0.0.0:8686",
        )
    return OtherHost(served.slot, sign.host, sign.http)


class Fleet:
    """The fleet of a slot, from its store, and requests to its other slots."""

    def __init__(self, store: str, slot: str, forwarder: Forwarder) -> None:
        """Keep the parts.

        store      URL of the store that all slots share
        slot       name of the slot that this run is
        forwarder  sends requests to other hosts
        """
        self.forwarder = forwarder
        self._store = store
        self._slot = slot
        self._lock = threading.Lock()
        self._now = FleetNow()
        self._looked_mono = -math.inf

    def look(self) -> FleetNow:
        """Return the fleet, FRESH_S old at most; an older look if the store fails. Any thread."""
        with self._lock:
            if time.monotonic() - self._looked_mono > FRESH_S:
                try:
                    self._now = read_fleet(self._store, self._now)
                except FramegateError as error:
                    log.debug("fleet: %s", redacted(str(error)))
                self._looked_mono = time.monotonic()
            return self._now

    def others(self, own: Collection[str]) -> list[str]:
        """Return the sources of the plan without these, sorted. Any thread."""
        return sorted(self.look().plan.sources.keys() - set(own))

    def served_here(self) -> ServedBy:
        """Return this slot, which serves the sources of the run. Any thread."""
        sign = self.look().signs.get(self._slot)
        host = None
        if sign is not None:
            host = sign.host
        return ServedBy(self._slot, host, None)

    async def answer(self, request: Request, source: str, body: bytes = b"") -> Streamed | None:
        """Return the response of the slot that serves a source which this run does not serve.

        body  of a POST, which was read before
        None if the plan gives the source to no other slot, or another host forwarded the request.
        Refusal if the slot does not answer.
        """
        if is_forwarded(request):
            return None
        now = await run_in_threadpool(self.look)
        planned = now.plan.sources.get(source)
        if planned is None or planned.slot == self._slot:
            return None
        return await self.forwarder.answer(request, port_of(now, source), body)

    def by_port(self, sources: Collection[str]) -> dict[OtherHost, list[str]]:
        """Return those of these sources that other slots serve, by port. Any thread."""
        now = self.look()
        ports: dict[OtherHost, list[str]] = {}
        for source in sorted(now.plan.sources.keys() & set(sources)):
            if now.plan.sources[source].slot == self._slot:
                continue
            try:
                ports.setdefault(port_of(now, source), []).append(source)
            except Refusal as error:
                log.debug("no live picture: %s", error)
        return ports

    async def pictures(
        self, request: Request, at: OtherHost, sources: Sequence[str]
    ) -> AsyncIterator[bytes]:
        """Yield the parts of /live of another slot, each whole. Ask again if it does not answer."""
        target = f"/live?{urlencode({'sources': ','.join(sources)})}"
        while True:
            try:
                async with aclosing(self.forwarder.parts(request, at, target)) as body:
                    async for part in whole_parts(body):
                        yield part
            except (Refusal, h11.ProtocolError, ValueError) as error:
                log.debug("no live pictures: %s", error)
            await asyncio.sleep(ASK_AGAIN_S)


async def whole_parts(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the parts of a response of /live, each of which is a line of JSON and a JPEG.

    ValueError if a part has more than PART_BYTES, or a line that is no head of a part.
    """
    have = b""
    async for piece in body:
        have += piece
        while True:
            line = have.find(b"\n") + 1
            nbytes = 0
            if line:
                nbytes = line + msgspec.json.decode(have[:line], type=_PartHead).bytes
            if max(nbytes, len(have)) > PART_BYTES + len(piece):
                raise ValueError(f"a part has more than {PART_BYTES} bytes")
            if not line or len(have) < nbytes:
                break
            yield have[:nbytes]
            have = have[nbytes:]


class _PartHead(msgspec.Struct):
    """The line before a JPEG in /live."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]


class ScrapeTarget(msgspec.Struct, frozen=True):
    """Addresses with metrics and their common labels, as Prometheus reads them (`http_sd`).

    targets  HOST:PORT
    labels   slot and host
    """

    targets: list[str]
    labels: dict[str, str]


def fleet_routes(store: str) -> list[Route]:
    """Return the routes. store: URL of the store that all slots share"""

    def targets(request: Request) -> Response:  # noqa: ARG001
        """The slots of the fleet for Prometheus (http_sd); those that are up, and whose HTTP port
        other hosts can reach.
        """
        return Response(msgspec.json.encode(targets_of(store)), 200, NO_STORE, JSON)

    def recordings(request: Request) -> Response:
        """The hosts of the fleet that have recordings, by source, with the first and last time."""
        caller = caller_of(request)
        seen = [place for place in all_places(store) if caller.sees(place.source)]
        return Response(msgspec.json.encode(seen), 200, NO_STORE, JSON)

    return [
        Operation("/api/v1/fleet/targets", targets, gives=list[ScrapeTarget]),
        Operation("/api/v1/fleet/recordings", recordings, gives=list[RecordingPlace]),
    ]


def targets_of(store: str) -> list[ScrapeTarget]:
    """Return the slots that are up and reachable, by name. StoreLost, StoreBusy, StoreRefused."""
    return [
        ScrapeTarget([sign.http], {"slot": slot, "host": sign.host})
        for slot, sign in read_fleet(store).signs.items()
        if sign.http
    ]
