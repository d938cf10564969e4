"""/api/v1/unseen and its page: what was not watched, not recorded, or not judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.review.unseen import Unseen, unseen_in
from framegate.pipeline.web.api import names_of
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, refused, time_in
from framegate.pipeline.web.openapi import FROM, SOURCE, TO, Operation
from framegate.pipeline.web.pages.pages import page

DAY_S: Final = 86400.0

DropsBySource = Mapping[str, Mapping[str, int]]
"""Dropped frames of the cameras that are to be watched now, by source and reason."""


def unseen_routes(folder: Path, drops: Callable[[], DropsBySource]) -> list[Route]:
    """Return the routes.

    folder  of the run's data
    drops   returns the dropped frames of each camera of the run or its fleet. FramegateError
    """

    async def unseen(request: Request) -> Response:
        """Times in which a source was not watched or not recorded, or in which a rule could not be
        judged, with the reasons, removed recordings and dropped frames; `?source=`, `?from=` and
        `?to=`, by default the last day.
        """
        try:
            answer = await run_in_threadpool(_unseen, folder, drops, request.query_params)
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Response(msgspec.json.encode(answer), 200, NO_STORE, JSON)

    return [
        Operation("/api/v1/unseen", unseen, [SOURCE, FROM, TO], gives=Unseen),
        page("/unseen", "review/unseen.html", "The page of what was not seen."),
    ]


def _unseen(folder: Path, drops: Callable[[], DropsBySource], asked: QueryParams) -> Unseen:
    now = time.time()
    since, until = time_in(asked, "from"), time_in(asked, "to")
    if until is None:
        until = now
    if since is None:
        since = until - DAY_S
    if since >= until:
        raise Refusal(400, "from, to: the span ends before it begins")
    dropped = drops()
    return unseen_in(folder, since, until, now, names_of(asked, "source"), set(dropped), dropped)
