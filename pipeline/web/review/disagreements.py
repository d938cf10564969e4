"""/api/v1/disagreements: the events that cameras report beside the objects of Framegate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.client.when import TIME
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.review.disagreements import CameraComparison, compare
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.web.api import limit_of, names_of
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, refused, time_in
from framegate.pipeline.web.openapi import AT_MOST, SOURCE, Operation, parameter
from framegate.pipeline.web.pages.pages import page

DAY_S: Final = 86_400.0
LONGEST_S: Final = 31 * DAY_S
_ASKED: Final = (
    SOURCE,
    parameter("from", f"Only periods that began since: {TIME}. Default: a day before `to`"),
    parameter("to", f"Only periods that began until: {TIME}. Default: now"),
    AT_MOST,
)


def disagreement_routes(folder: Path) -> list[Route]:
    """Return the routes. folder: of the run's data"""
    file = folder / FILE

    async def disagreements(request: Request) -> Response:
        """Events that only a camera or only Framegate reported, and their numbers by hour; by
        default of the last day. `?source=A,B`, `?from=` and `?to=` a time, `?limit=`.
        """
        try:
            compared = await run_in_threadpool(_compared, file, request.query_params)
        except ConfigFaults as error:  # there is no database: no run used this folder
            return refused(Refusal(404, str(error)))
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Response(msgspec.json.encode(compared), 200, NO_STORE, JSON)

    return [
        Operation("/api/v1/disagreements", disagreements, _ASKED, gives=CameraComparison),
        page(
            "/disagreements",
            "review/disagreements.html",
            "The page that compares the events of cameras with the objects of Framegate.",
        ),
    ]


def _compared(file: Path, asked: QueryParams) -> CameraComparison:
    now = time.time()
    until = time_in(asked, "to")
    if until is None:
        until = now
    since = time_in(asked, "from")
    if since is None:
        since = until - DAY_S
    if until - since > LONGEST_S:
        raise Refusal(400, f"from, to: {(until - since) / DAY_S:.0f} days; at most 31 are compared")
    with opened(file) as database:
        return compare(
            database, since, until, limit_of(asked), now, tuple(names_of(asked, "source"))
        )
