"""/api/v1/episodes: the episodes of rules, from their database, and the verdicts of users.

Programs and pages of this server may set a verdict; all other requests only read.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, did_you_mean
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.review.episode_counts import EpisodeCount, counts
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.search import (
    Episode,
    EpisodeCursor,
    EpisodeFilter,
    EpisodeStep,
    EpisodeVerdict,
    SeenSpan,
    episode_of,
    find,
    seen_in,
    steps_of,
)
from framegate.pipeline.review.verdicts import VerdictCounts, judge, verdict_counts
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.web.accounts.accounts import Caller
from framegate.pipeline.web.api import limit_of, names_of
from framegate.pipeline.web.fleet.fleet import Fleet
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, posted, refused, time_in
from framegate.pipeline.web.openapi import AT_MOST, SOURCE, Operation, parameter
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.route_table import caller_of

MAX_VERDICT_BYTES: Final = 1024
MAX_FRAMES: Final = 4000  # results of an episode that are read for its path
MAX_POINTS: Final = 400  # of a path
DAY_S: Final = 86400.0

_TIME: Final = "a time (2026-11-27T10:30, 10:30, UNIX seconds, or 15m for 15 minutes ago)"
_RULE: Final = parameter("rule", "Names of rules, several with commas between")
_LABEL: Final = parameter("label", "Labels, several with commas between")
_SINCE: Final = parameter("from", f"Only episodes that began since: {_TIME}")
_UNTIL: Final = parameter("to", f"Only episodes that began until: {_TIME}")
_AT: Final = parameter("at", f"Only episodes that were open at: {_TIME}")
_OPEN: Final = parameter("open", "1: only open episodes", {"type": "integer"})
_MUTED: Final = parameter(
    "muted",
    "0: without muted episodes; 1: only these; all: both",
    {"type": "string", "enum": ["0", "1", "all"], "default": "0"},
)
_NEXT: Final = parameter("after", "`next` of the last response, to continue the list")
_ID: Final = parameter("id", "Id of the episode; its slashes are not escaped", place="path")
_BUCKET: Final = parameter(
    "bucket", "Length of a bucket: 1h, 15m, 1d", {"type": "string", "default": "1h"}
)
_ORDER: Final = parameter(
    "order",
    "Which come first",
    {"type": "string", "enum": ["newest", "oldest"], "default": "newest"},
)
_LISTED: Final = (SOURCE, _RULE, _LABEL, _SINCE, _UNTIL, _AT, _OPEN, _MUTED, _ORDER, _NEXT, AT_MOST)
_COUNTED: Final = (SOURCE, _RULE, _LABEL, _SINCE, _UNTIL, _BUCKET)


_MUTED_SAID: Final[dict[str, bool | None]] = {"0": False, "1": True, "all": None}


class EpisodePage(msgspec.Struct, frozen=True):
    """A page of the episodes that a filter selects, in the order of their beginnings.

    episodes  the episodes
    next      the value of `after` for the next page; null: this is the last page
    """

    episodes: list[Episode]
    next: str | None


class FootPoint(msgspec.Struct, frozen=True):
    """An object of an episode in one frame.

    at        position of the frame
    captured  capture time of the frame, UNIX seconds
    track     number of the object's track
    label     class of the object
    score     score of the detection, 0 to 1
    box       x1, y1, x2, y2 as shares of the picture, 0 to 1
    origin    source of the box, as in results: detected, carried, moved, escalated
    """

    at: str
    captured: float
    track: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    origin: str


class EpisodeDetail(msgspec.Struct, frozen=True):
    """An episode with its evidence.

    episode  the episode
    steps    its changes, in order
    path     the boxes of its objects in the stored results; a long path is thinned out
    whole    whether the path covers the whole episode: the store has all its results, and they are
             not too many
    """

    episode: Episode
    steps: list[EpisodeStep]
    path: list[FootPoint]
    whole: bool


class VerdictSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The verdict of a user about an episode.

    verdict  true: it is right. false: it is a false alert. unsure: the user cannot decide. null:
             remove the verdict
    """

    verdict: EpisodeVerdict | None


def episode_routes(
    folder: Path,
    store: str,
    pictures: RecordedPictures | None = None,
    fleet: Fleet | None = None,
) -> list[Route]:
    """Return the routes.

    folder    of the run's data
    store     URL of the store
    pictures  keeps the picture of a judged episode; None: none is kept
    fleet     the fleet of which the run is a slot; None: it is none
    """
    file = folder / FILE

    async def episodes(request: Request) -> Response:
        """Episodes as JSON, newest first; `?source=A,B`, `?rule=`, `?label=`, `?from=` and `?to=` a
        time, `?at=` a time at which they were open, `?open=1`, `?muted=1`, `?order=oldest`,
        `?limit=` (100, at most 1000), `?after=` the `next` of the last response.
        """
        return await _answered(_page, file, request.query_params)

    async def detail(request: Request) -> Response:
        """One episode: its changes, and the boxes of its objects in the stored results."""
        return await _answered(_detail, file, store, request.path_params["id"])

    async def counted(request: Request) -> Response:
        """Numbers of episodes that began, by `?bucket=1h`, source, rule and direction; by default
        of the last day.
        """
        return await _answered(_counts, file, request.query_params)

    async def seen(request: Request) -> Response:
        """Times in which sources were watched, and in which rules could not be judged; by default
        of the last day.
        """
        return await _answered(_seen, file, request.query_params, caller_of(request))

    async def verdicts(request: Request) -> Response:
        """Verdicts by source and rule, and false alerts per day; by default of the last 30 days."""
        return await _answered(_verdicts, file, request.query_params, caller_of(request))

    async def set_verdict(request: Request) -> Response:
        """Set the verdict of an episode (`true`, `false`, `unsure`), or remove it (`null`). In a
        fleet, the slot that serves the source takes it first, and keeps the picture.
        """
        return await _take_verdict(request, file, pictures, fleet)

    one_episode = "/api/v1/episodes/{id:path}"
    return [
        Operation("/api/v1/episodes", episodes, _LISTED, gives=EpisodePage),
        Operation(f"{one_episode}/verdict", set_verdict, [_ID], gives=Episode, body=VerdictSaid),
        Operation(one_episode, detail, [_ID], gives=EpisodeDetail),
        Operation("/api/v1/counts", counted, _COUNTED, gives=list[EpisodeCount]),
        Operation("/api/v1/seen", seen, [_SINCE, _UNTIL], gives=SeenSpan),
        Operation("/api/v1/verdicts", verdicts, [_SINCE, _UNTIL], gives=list[VerdictCounts]),
        page("/review", "review/review.html", "The page to look through episodes and judge them."),
    ]


async def _take_verdict(
    request: Request, file: Path, pictures: RecordedPictures | None, fleet: Fleet | None
) -> Response:
    """Store a posted verdict, in a fleet first with the slot that serves the source."""
    name = request.path_params["id"]
    try:
        posted_verdict = await posted(request, VerdictSaid, MAX_VERDICT_BYTES)
        failed = await _passed_on(fleet, request, name, posted_verdict)
    except Refusal as error:
        return refused(error)
    if failed is not None:
        return failed
    verdict = posted_verdict.verdict
    answer = await _answered(_judge, file, name, verdict)
    if answer.status_code == 200 and verdict and pictures is not None:
        pictures.notice()
    return answer


async def _passed_on(
    fleet: Fleet | None, request: Request, name: str, verdict: VerdictSaid
) -> Response | None:
    """Send a verdict to the slot that serves the source of an episode, if another one does.

    Return its response if it is a failure, else None. Refusal if it does not answer.
    """
    if fleet is None:
        return None
    source = name.partition("/")[0]
    response = await fleet.answer(request, source, msgspec.json.encode(verdict))
    if response is None or response.status_code != 200:
        return response
    response.close()
    return None


async def _answered(answer: Callable[..., Any], *arguments: Any) -> Response:
    try:
        content = await run_in_threadpool(answer, *arguments)
    except ConfigFaults as error:  # there is no database: no run used this folder
        return refused(Refusal(404, str(error)))
    except (Refusal, FramegateError) as error:
        return refused(error)
    return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)


# -- The parameters of a request.


def _filter(asked: QueryParams, since: float | None, until: float | None) -> EpisodeFilter:
    return EpisodeFilter(
        sources=tuple(names_of(asked, "source")),
        rules=tuple(names_of(asked, "rule")),
        labels=tuple(names_of(asked, "label")),
        since=since,
        until=until,
        open=asked.get("open", "0") not in ("", "0"),
        at=time_in(asked, "at"),
    )


def _span(asked: QueryParams, default_s: float) -> tuple[float, float]:
    """Return `from` and `to`, UNIX seconds. By default they are the last `default_s`."""
    since = time_in(asked, "from")
    until = time_in(asked, "to")
    if until is None:
        until = time.time()
    if since is None:
        since = until - default_s
    return since, until


# -- The content of responses.


def _page(file: Path, asked: QueryParams) -> EpisodePage:
    order = asked.get("order", "newest")
    if order not in ("newest", "oldest"):
        raise Refusal(400, f"order: {order[:20]!r}; allowed: newest, oldest")
    after = None
    if asked.get("after"):
        try:
            after = EpisodeCursor.parse(asked["after"])
        except ValueError as error:
            raise Refusal(400, f"after: {error}") from None
    muted = asked.get("muted", "0")
    if muted not in _MUTED_SAID:
        raise Refusal(400, f"muted: {muted[:20]!r}; allowed: {', '.join(_MUTED_SAID)}")
    wanted = replace(
        _filter(asked, time_in(asked, "from"), time_in(asked, "to")), muted=_MUTED_SAID[muted]
    )
    limit = limit_of(asked)
    with opened(file) as database:
        episodes, cursor = find(database, wanted, limit, after, order == "oldest")
    next_ = None
    if cursor is not None:
        next_ = str(cursor)
    return EpisodePage(episodes, next_)


def _detail(file: Path, store: str, name: str) -> EpisodeDetail:
    with opened(file) as database:
        episode = episode_of(database, name)
        if episode is None:
            raise Refusal(404, f"no episode {name[:100]}{_near(database, name)}")
        steps = steps_of(database, name)
    path, is_whole = _path(store, episode)
    return EpisodeDetail(episode, steps, path, is_whole)


def _near(database: sqlite3.Connection, name: str) -> str:
    source, _, rest = name.partition("/")
    rule = rest.partition("/")[0]
    episodes, _ = find(database, EpisodeFilter(sources=(source,), rules=(rule,)), 100)
    return did_you_mean(name, [each.id for each in episodes])


def _path(store: str, episode: Episode) -> tuple[list[FootPoint], bool]:
    """Return the path of an episode, and whether it covers the whole episode.

    It is that of the stored results, of the first MAX_FRAMES of a long episode, thinned out evenly
    to MAX_POINTS.
    """
    tracks = set(episode.tracks)
    points: list[FootPoint] = []
    first = str(Position(episode.began.epoch, episode.began.seq))
    last = str(Position(episode.last.epoch, episode.last.seq))
    with store_errors(store), closing(connect(store)) as client:
        entries = client.xrange(keys.results(episode.source), first, last, count=MAX_FRAMES)
    for _, fields in entries:
        if fields[b"k"] == FRAME.encode():
            result = records.decode_versioned(fields[b"d"], Result)
            points += [_point(result, seen) for seen in result.objects if seen.track in tracks]
    is_whole = False
    if entries:
        has_first = entries[0][0].decode() == first
        has_last = entries[-1][0].decode() == last
        is_whole = has_first and has_last
    step = max(1, math.ceil(len(points) / MAX_POINTS))
    return points[::step], is_whole


def _point(result: Result, seen: Object) -> FootPoint:
    return FootPoint(
        at=str(result.position),
        captured=result.captured,
        track=seen.track or 0,
        label=seen.label,
        score=seen.score,
        box=_share_of_picture(result, seen),
        origin=seen.origin,
    )


def _share_of_picture(result: Result, seen: Object) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = seen.box
    width = result.width or 1
    height = result.height or 1
    return x1 / width, y1 / height, x2 / width, y2 / height


def _counts(file: Path, asked: QueryParams) -> Sequence[Any]:
    try:
        bucket_s = duration_s(asked.get("bucket", "1h"))
        if bucket_s < 1:
            raise ValueError(f"must be at least 1 s, got {bucket_s:g} s")
        wanted = _filter(asked, *_span(asked, max(DAY_S, 24 * bucket_s)))
        with opened(file) as database:
            return counts(database, wanted, bucket_s)
    except ValueError as error:
        raise Refusal(400, f"bucket {error}") from None


def _seen(file: Path, asked: QueryParams, caller: Caller) -> SeenSpan:
    since, until = _span(asked, DAY_S)
    with opened(file) as database:
        span = seen_in(database, since, until)
    return SeenSpan(
        [each for each in span.watched if caller.sees(each.source)],
        [each for each in span.unknown if caller.sees(each.source)],
        [gap for gap in span.lost if caller.sees(gap.partition(":")[0])],
    )


def _verdicts(file: Path, asked: QueryParams, caller: Caller) -> Sequence[VerdictCounts]:
    since, until = _span(asked, 30 * DAY_S)
    with opened(file) as database:
        counted = verdict_counts(database, since, until)
    return [each for each in counted if caller.sees(each.source)]


def _judge(file: Path, name: str, verdict: EpisodeVerdict | None) -> Episode:
    """Store a verdict, and return the episode with it."""
    try:
        with opened(file):  # a missing database is refused, not made
            pass
        is_stored = judge(file, name, verdict, time.time())
    except sqlite3.Error as error:
        raise Refusal(503, f"the verdict cannot be stored now: {error}") from error
    with opened(file) as database:
        episode = episode_of(database, name)
    if not is_stored or episode is None:
        raise Refusal(404, f"no episode {name[:100]}")
    return episode
