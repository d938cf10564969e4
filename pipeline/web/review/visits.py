"""/api/v1/visits: search visits and mark them. /api/v1/changes: when a region changed.

Programs and pages of this server may set a mark; all other requests only read.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.client.when import TIME
from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.recording.changed_parts import (
    ActivityShares,
    RegionChanges,
    activity_of,
    changes_of_region,
    read_region,
)
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visit_search import VOCABULARY
from framegate.pipeline.review.visits import (
    FoundVisits,
    RuleTrial,
    VisitMarks,
    VisitQuery,
    all_marks,
    mark_visit,
    search,
    try_rule,
)
from framegate.pipeline.web.accounts.accounts import Caller
from framegate.pipeline.web.api import limit_of
from framegate.pipeline.web.limits import (
    JSON,
    NO_STORE,
    Refusal,
    posted,
    refused,
    time_in,
    whole_number,
)
from framegate.pipeline.web.openapi import FROM, TO, Operation, parameter
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.route_table import caller_of, check_seen, source_of_id

MAX_MARK_BYTES: Final = 1024
STEPS: Final = 240
MAX_STEPS: Final = 1440
DAY_S: Final = 86400.0
_OF: Final = parameter("source", "A source's name", place="path")
_STEPS: Final = parameter(
    "steps", "Number of steps",
    {"type": "integer", "minimum": 1, "maximum": MAX_STEPS, "default": STEPS},
)  # fmt: skip
_MARKS: Final = parameter("marks", "Name of the marks in the answer")
_SEARCHED: Final = (
    parameter("words", f"Words with commas between; all must match. {VOCABULARY}"),
    parameter("like", "Id of a visit: the nearest to it come first"),
    _MARKS,
    parameter("trained", "1: only visits that are like those marked as alike", {"type": "integer"}),
    parameter("limit", "Greatest number of visits", {"type": "integer", "default": 100}),
)
_CHANGED: Final = (
    parameter("source", "Name of the source"),
    parameter("region", "Left, top, right, bottom as shares of the picture: 0.1,0.2,0.4,0.6"),
    parameter("from", f"Only frames since: {TIME}"),
    parameter("to", f"Only frames until: {TIME}"),
    parameter(
        "apart",
        "Changes that are at most this time apart are one period",
        {"type": "string", "default": "2s"},
    ),
)


class MarkSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mark of a user on a visit.

    name   name of the marks
    visit  id of the visit
    alike  true: it is like the others. false: it is not. null: remove the mark
    """

    name: str
    visit: str
    alike: bool | None


def visit_routes(folder: Path, pictures: RecordedPictures | None = None) -> list[Route]:
    """Return the routes.

    folder    of the run's data
    pictures  keeps the picture of a marked visit; None: none is kept
    """
    file = folder / FILE
    index = VisitIndex()

    async def visits(request: Request) -> Response:
        """Visits that match, the best first: `?words=car, left, stops`, `?like=` an id,
        `?marks=NAME&trained=1`, `?limit=` (100, at most 1000).
        """
        return await _answered(_visits, file, index, request.query_params, caller_of(request))

    async def marks(request: Request) -> Response:
        """Names of marks, with the numbers of visits that are marked as alike and not alike."""
        return await _answered(_all_marks, file, caller_of(request))

    async def set_mark(request: Request) -> Response:
        """Mark a visit as alike or not alike, or remove the mark."""
        try:
            said = await posted(request, MarkSaid, MAX_MARK_BYTES)
        except Refusal as error:
            return refused(error)
        answer = await _answered(_mark, file, said, caller_of(request))
        if answer.status_code == 200 and said.alike is not None and pictures is not None:
            pictures.notice()
        return answer

    async def rule(request: Request) -> Response:
        """A rule about visits that are like those with `?marks=NAME`, tried on stored visits."""
        return await _answered(_rule, file, index, request.query_params)

    return [
        Operation("/api/v1/visits", visits, _SEARCHED, gives=FoundVisits),
        Operation("/api/v1/visits/marks", marks, gives=list[VisitMarks]),
        Operation("/api/v1/visits/mark", set_mark, gives=VisitMarks, body=MarkSaid),
        Operation("/api/v1/visits/rule", rule, [_MARKS], gives=RuleTrial),
        *_change_routes(folder),
        page("/visits", "review/visits.html", "The page to search visits and changes."),
    ]


async def _answered(answer: Callable[..., Any], *arguments: Any) -> Response:
    try:
        content = await run_in_threadpool(answer, *arguments)
    except ConfigFaults as error:  # there are no such data, or a word is unknown
        return refused(Refusal(404, str(error)))
    except (Refusal, FramegateError) as error:
        return refused(error)
    return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)


def _change_routes(folder: Path) -> list[Route]:
    """Return the routes about changes of the picture. folder: of the run's data"""

    async def changes(request: Request) -> Response:
        """Periods in which `?region=` of `?source=` changed, by stored comparisons of the gate;
        `?from=` and `?to=` a time, `?apart=2s`.
        """
        return await _answered(_changes, folder, request.query_params)

    async def activity(request: Request) -> Response:
        """How much of a source's picture changed from `?from=` to `?to=`, by default the last day,
        in `?steps=` equal steps (240).
        """
        return await _answered(
            _activity, folder, request.path_params["source"], request.query_params
        )

    return [
        Operation("/api/v1/changes", changes, _CHANGED, gives=RegionChanges),
        Operation(
            "/api/v1/changes/{source}/activity",
            activity,
            [_OF, FROM, TO, _STEPS],
            gives=ActivityShares,
        ),
    ]


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


def _activity(folder: Path, source: str, asked: QueryParams) -> ActivityShares:
    steps = whole_number(asked, "steps", STEPS, 1, MAX_STEPS)
    until = time_in(asked, "to")
    if until is None:
        until = time.time()
    since = time_in(asked, "from")
    if since is None:
        since = until - DAY_S
    if since >= until:
        raise Refusal(400, "from, to: the span ends before it begins")
    return activity_of(folder, source, since, until, steps)


def _visits(file: Path, index: VisitIndex, asked: QueryParams, caller: Caller) -> FoundVisits:
    query = VisitQuery(
        words=asked.get("words", ""),
        like=asked.get("like", ""),
        marks=asked.get("marks", ""),
        is_trained=asked.get("trained", "0") not in ("", "0"),
        limit=limit_of(asked),
        sources=caller.sources,
    )
    with opened(file) as database:
        return search(index, database, query)


def _all_marks(file: Path, caller: Caller) -> list[VisitMarks]:
    with opened(file) as database:
        return all_marks(database, caller.sources)


def _mark(file: Path, said: MarkSaid, caller: Caller) -> VisitMarks:
    check_seen(caller, [source_of_id(said.visit)])
    with opened(file):  # a missing database is refused, not made
        pass
    try:
        counts = mark_visit(file, said.name, said.visit, said.alike, time.time())
    except sqlite3.Error as error:
        raise Refusal(503, f"the mark cannot be stored now: {error}") from error
    if caller.sources is None:
        return counts
    seen = {each.name: each for each in _all_marks(file, caller)}
    return seen.get(said.name, VisitMarks(said.name, 0, 0))


def _rule(file: Path, index: VisitIndex, asked: QueryParams) -> RuleTrial:
    with opened(file) as database:
        return try_rule(index, database, asked.get("marks", ""))
