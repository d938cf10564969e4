"""/api/v1/episodes: what rules said, from the database of episodes, for programs and the page.

All but a verdict only reads. A verdict is taken from pages of this server alone, and from programs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.client.when import duration_s, moment
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, did_you_mean
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.review.projection import FILE
from framegate.pipeline.review.search import (
    Episode,
    EpisodeCount,
    EpisodeCursor,
    EpisodeFilter,
    EpisodeStep,
    EpisodeVerdict,
    SeenSpan,
    counts,
    find,
    one,
    opened,
    seen_in,
    steps_of,
)
from framegate.pipeline.review.verdicts import VerdictCounts, judge, verdict_counts
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.web.api import limit_of
from framegate.pipeline.web.limits import Refusal, posted, refused
from framegate.pipeline.web.openapi import AT_MOST, SOURCE, Operation, parameter
from framegate.pipeline.web.pages import page
from framegate.pipeline.web.pictures import FRESH

MOST_SAID: Final = 1024  # bytes of a verdict
MOST_FRAMES: Final = 4000  # of an episode that are looked through for its path
MOST_POINTS: Final = 400
DAY_S: Final = 86400.0
_JSON: Final = "application/json"

Answer = Callable[[Path, QueryParams], Any]

_TIME: Final = "a time (2026-11-27T10:30, 10:30, UNIX seconds, or 15m for 15 minutes ago)"
_RULE: Final = parameter("rule", "Names of rules, several with commas between")
_LABEL: Final = parameter("label", "Labels, several with commas between")
_SINCE: Final = parameter("from", f"Only episodes that began since: {_TIME}")
_UNTIL: Final = parameter("to", f"Only episodes that began until: {_TIME}")
_AT: Final = parameter("at", f"Only episodes that were open at: {_TIME}")
_OPEN: Final = parameter("open", "1: only open episodes", {"type": "integer"})
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
_LISTED: Final = (SOURCE, _RULE, _LABEL, _SINCE, _UNTIL, _AT, _OPEN, _ORDER, _NEXT, AT_MOST)
_COUNTED: Final = (SOURCE, _RULE, _LABEL, _SINCE, _UNTIL, _BUCKET)


class EpisodePage(msgspec.Struct, frozen=True):
    """Episodes of a filter, in the order in which they began.

    episodes  the episodes
    next      where the list goes on, as `after`; null: it ends here
    """

    episodes: list[Episode]
    next: str | None


class PathPoint(msgspec.Struct, frozen=True):
    """Where an object of an episode was in one frame.

    at        position of the frame
    captured  UNIX seconds at which that was taken
    track     number of the object
    label     its class
    score     0..1, how sure the model was
    box       x1, y1, x2, y2 as shares of the picture, 0 to 1
    origin    how it is known, as in results: detected, carried, moved, escalated
    """

    at: str
    captured: float
    track: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    origin: str


class EpisodeDetail(msgspec.Struct, frozen=True):
    """An episode and why it is one.

    episode  the episode
    steps    its changes, in order
    path     where its objects were, thinned out, as far as results are stored
    whole    whether the store still has the results of all of it, and they were few enough
    """

    episode: Episode
    steps: list[EpisodeStep]
    path: list[PathPoint]
    whole: bool


class VerdictSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says of an episode.

    verdict  true: it is right. false: it is a false alert. unsure: one cannot tell. null: as if
             nobody had said anything
    """

    verdict: EpisodeVerdict | None


def episode_routes(folder: Path, store: str) -> list[Route]:
    """The routes. folder: of the run's data; store: its URL."""
    file = folder / FILE

    async def answered(request: Request, answer: Callable[[], Any]) -> Response:
        del request
        try:
            told = await run_in_threadpool(answer)
        except (Refusal, FramegateError) as error:
            return refused(_as_refusal(error))
        return Response(msgspec.json.encode(told), 200, FRESH, _JSON)

    async def episodes(request: Request) -> Response:
        """Episodes as JSON, the newest first; `?source=A,B`, `?rule=`, `?label=`, `?from=` and
        `?to=` a time, `?at=` one at which they went on, `?open=1`, `?order=oldest`, `?limit=` (100,
        at most 1000), `?after=` what `next` said.
        """
        return await answered(request, lambda: _page(file, request.query_params))

    async def detail(request: Request) -> Response:
        """One episode: its changes, and where its objects were, as far as results are stored."""
        name = request.path_params["id"]
        return await answered(request, lambda: _detail(file, store, name))

    async def counted(request: Request) -> Response:
        """How many episodes began, by `?bucket=1h`, source, rule and direction; the last day's."""
        return await answered(request, lambda: _counts(file, request.query_params))

    async def seen(request: Request) -> Response:
        """What of a span was watched, and when a rule could not be judged; the last day."""
        return await answered(request, lambda: _seen(file, request.query_params))

    async def verdicts(request: Request) -> Response:
        """What was said of episodes by source and rule, and false ones a day; the last 30 days."""
        return await answered(request, lambda: _verdicts(file, request.query_params))

    async def said(request: Request) -> Response:
        """Say of an episode that it is `true` or `false`, that one is `unsure`, or take it back."""
        try:
            told = await posted(request, VerdictSaid, MOST_SAID)
        except Refusal as error:
            return refused(error)
        name = request.path_params["id"]
        return await answered(request, lambda: _judge(file, name, told))

    one_episode = "/api/v1/episodes/{id:path}"
    return [
        Operation("/api/v1/episodes", episodes, _LISTED, gives=EpisodePage),
        Operation(f"{one_episode}/verdict", said, [_ID], gives=Episode, body=VerdictSaid),
        Operation(one_episode, detail, [_ID], gives=EpisodeDetail),
        Operation("/api/v1/counts", counted, _COUNTED, gives=list[EpisodeCount]),
        Operation("/api/v1/seen", seen, [_SINCE, _UNTIL], gives=SeenSpan),
        Operation("/api/v1/verdicts", verdicts, [_SINCE, _UNTIL], gives=list[VerdictCounts]),
        page("/review", "review.html", "The page to look through episodes and judge them."),
    ]


def _as_refusal(error: Exception) -> Exception:
    """There is no database: no run with rules has been here."""
    return Refusal(404, str(error)) if isinstance(error, ConfigFaults) else error


# -- What is asked for.


def _names(asked: QueryParams, what: str) -> tuple[str, ...]:
    return tuple(name for said in asked.getlist(what) for name in said.split(",") if name)


def _wanted(asked: QueryParams, span_s: float | None = None) -> EpisodeFilter:
    """span_s: how long before now it begins where nothing else is said; None: no bound."""
    since, until = _time(asked, "from"), _time(asked, "to")
    if span_s is not None:
        until = time.time() if until is None else until
        since = until - span_s if since is None else since
    return EpisodeFilter(
        sources=_names(asked, "source"),
        rules=_names(asked, "rule"),
        labels=_names(asked, "label"),
        since=since,
        until=until,
        open=asked.get("open", "0") not in ("", "0"),
        at=_time(asked, "at"),
    )


def _time(asked: QueryParams, what: str) -> float | None:
    text = asked.get(what)
    if not text:
        return None
    try:
        found = moment(text, time.time())
    except ValueError as error:
        raise Refusal(400, f"{what}: {error}") from None
    if isinstance(found, Position):
        raise Refusal(400, f"{what}: {text[:40]!r}; allowed is a time, not a position")
    return found


def _span(asked: QueryParams, span_s: float) -> tuple[float, float]:
    wanted = _wanted(asked, span_s)
    assert wanted.since is not None
    assert wanted.until is not None
    return wanted.since, wanted.until


# -- What is answered.


def _page(file: Path, asked: QueryParams) -> EpisodePage:
    order = asked.get("order", "newest")
    if order not in ("newest", "oldest"):
        raise Refusal(400, f"order: {order[:20]!r}; allowed: newest, oldest")
    try:
        after = EpisodeCursor.parse(asked["after"]) if asked.get("after") else None
    except ValueError as error:
        raise Refusal(400, f"after: {error}") from None
    wanted, limit = _wanted(asked), limit_of(asked)
    with opened(file) as database:
        found, more = find(database, wanted, limit, after, order == "oldest")
    return EpisodePage(found, None if more is None else str(more))


def _detail(file: Path, store: str, name: str) -> EpisodeDetail:
    with opened(file) as database:
        episode = one(database, name)
        if episode is None:
            raise Refusal(404, f"no episode {name[:100]}{_near(database, name)}")
        steps = steps_of(database, name)
    path, whole = _path(store, episode)
    return EpisodeDetail(episode, steps, path, whole)


def _near(database: sqlite3.Connection, name: str) -> str:
    source, _, rest = name.partition("/")
    rule = rest.partition("/")[0]
    found, _ = find(database, EpisodeFilter(sources=(source,), rules=(rule,)), 100)
    return did_you_mean(name, [each.id for each in found])


def _path(store: str, episode: Episode) -> tuple[list[PathPoint], bool]:
    """Where its objects were, by results that the store still has, and whether that is all.

    Of long episodes it is the beginning. Thinned out evenly to MOST_POINTS.
    """
    tracks, points = set(episode.tracks), list[PathPoint]()
    first = str(Position(episode.began.epoch, episode.began.seq))
    last = str(Position(episode.last.epoch, episode.last.seq))
    with store_errors(store), closing(connect(store)) as client:
        entries = client.xrange(keys.results(episode.source), first, last, count=MOST_FRAMES)
    for _, fields in entries:
        if fields[b"k"] == FRAME.encode():
            result = records.decode_versioned(fields[b"d"], Result)
            points += _points(result, tracks)
    whole = bool(entries) and (entries[0][0].decode(), entries[-1][0].decode()) == (first, last)
    step = -(-len(points) // MOST_POINTS) or 1
    return points[::step], whole


def _points(result: Result, tracks: set[int]) -> list[PathPoint]:
    across, down = result.width or 1, result.height or 1
    return [
        PathPoint(
            str(result.position), result.captured, seen.track or 0, seen.label, seen.score,
            (seen.box[0] / across, seen.box[1] / down, seen.box[2] / across, seen.box[3] / down),
            seen.origin,
        )
        for seen in result.objects
        if seen.track in tracks
    ]  # fmt: skip


def _counts(file: Path, asked: QueryParams) -> Sequence[Any]:
    try:
        bucket_s = duration_s(asked.get("bucket", "1h"))
        if bucket_s < 1:
            raise ValueError(f"{bucket_s:g} s; allowed is 1 s or more")
    except ValueError as error:
        raise Refusal(400, f"bucket: {error}") from None
    wanted = _wanted(asked, max(DAY_S, 24 * bucket_s))
    with opened(file) as database:
        try:
            return counts(database, wanted, bucket_s)
        except ValueError as error:
            raise Refusal(400, f"bucket: {error}") from None


def _seen(file: Path, asked: QueryParams) -> Any:
    since, until = _span(asked, DAY_S)
    with opened(file) as database:
        return seen_in(database, since, until)


def _verdicts(file: Path, asked: QueryParams) -> Sequence[Any]:
    since, until = _span(asked, 30 * DAY_S)
    with opened(file) as database:
        return verdict_counts(database, since, until)


# -- What somebody says of one.


def _judge(file: Path, name: str, told: VerdictSaid) -> Episode:
    try:
        with opened(file) as database:
            known = one(database, name)
        if known is None or not judge(file, name, told.verdict, time.time()):
            raise Refusal(404, f"no episode {name[:100]}")
    except sqlite3.Error as error:
        raise Refusal(503, f"it cannot be kept now: {error}") from error
    with opened(file) as database:
        found = one(database, name)
    assert found is not None
    return found
