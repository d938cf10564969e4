"""/api/v1/changes: when a region of a source changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.client.when import TIME, duration_s
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.recording.changed_parts import (
    RegionChanges,
    changes_of_region,
    read_region,
)
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, refused, time_in
from framegate.pipeline.web.openapi import Operation, parameter

_CHANGED: Final = (
    parameter("source", "Name of the source"),
    parameter("region", "Left, top, right, bottom as shares of the picture: 0.1,0.2,0.4,0.6"),
    parameter("from", f"Only frames since: {TIME}"),
    parameter("to", f"Only frames until: {TIME}"),
    parameter(
        "apart",
        "Changes that are at most so far apart are one period",
        {"type": "string", "default": "2s"},
    ),
)


def visit_routes(folder: Path) -> list[Route]:
    """Return the routes. folder: of the run's data."""

    async def answered(answer: Callable[..., Any], *arguments: Any) -> Response:
        try:
            content = await run_in_threadpool(answer, *arguments)
        except ConfigFaults as error:  # there are no such data
            return refused(Refusal(404, str(error)))
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)

    async def changes(request: Request) -> Response:
        """Periods in which `?region=` of `?source=` changed, by stored comparisons of the gate;
        `?from=` and `?to=` a time, `?apart=2s`.
        """
        return await answered(_changes, folder, request.query_params)

    return [Operation("/api/v1/changes", changes, _CHANGED, gives=RegionChanges)]


def _changes(folder: Path, asked: QueryParams) -> RegionChanges:
    try:
        region = read_region(asked.get("region") or "0,0,1,1")
    except ValueError as error:
        raise Refusal(400, f"region {error}") from None
    try:
        apart_s = duration_s(asked.get("apart") or "2s")
    except ValueError as error:
        raise Refusal(400, f"apart {error}") from None
    until = time_in(asked, "to")
    if until is None:
        until = math.inf
    since = time_in(asked, "from") or 0.0
    return changes_of_region(folder, asked.get("source", ""), region, since, until, apart_s)
