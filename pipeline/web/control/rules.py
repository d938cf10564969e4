"""The page that draws areas, lines and rules, and the trial of rules on stored results."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.client.follower import unknown_sources
from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.config.read_events import read_events
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import EventEntry
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.review.search import Episode, EpisodeFilter, find
from framegate.pipeline.store.hop import END, FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.limits import (
    JSON,
    LIMITS,
    NO_STORE,
    AtOnce,
    Refusal,
    WebLimits,
    posted,
    refused,
)
from framegate.pipeline.web.openapi import Operation
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.route_table import caller_of

T = TypeVar("T")
MAX_BYTES: Final = 256 << 10  # of the rules in a request
MAX_FRAMES: Final = 50_000  # results of all sources in one trial
MAX_EPISODES: Final = 1000
TRIAL_S: Final = 20.0
_PAGE: Final = 1000  # entries that are read from the store at once
_DRAWING: Final = (
    "The page to draw areas and lines on a still, and to try a rule before it goes live."
)


class RulesTried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules to try on the stored results.

    events  areas, lines and rules, as in the table `[events]` of pipeline.toml
    source  the source to try them on; empty: all sources
    span    seconds of results to try them on, up to the newest result
    """

    events: dict[str, Any]
    source: str = ""
    span: float = 3600.0


class TrialFrames(msgspec.Struct, frozen=True):
    """The results of a source that a trial used.

    source  name of the source
    frames  number of results
    since   capture time of the first result, UNIX seconds
    until   capture time of the last result, UNIX seconds
    whole   whether these results are the whole requested span
    """

    source: str
    frames: int
    since: float
    until: float
    whole: bool


class RulesTrial(msgspec.Struct, frozen=True):
    """The episodes that rules would have produced.

    episodes  the episodes, oldest first; they are not stored
    more      whether there are more episodes
    tried     the results of each source that were used
    """

    episodes: list[Episode]
    more: bool
    tried: list[TrialFrames]


def rule_routes(
    store: str, sources: Callable[[], Sequence[str]], limits: WebLimits = LIMITS
) -> list[Route]:
    """Return the routes.

    store    URL of the store
    sources  returns the names of the run's sources; may block for some ms
    """
    trials = AtOnce(limits.trials, "trials of rules")

    async def trial(request: Request) -> Response:
        """Try rules on the stored results, and return the episodes that they would produce."""
        try:
            asked = await posted(request, RulesTried, MAX_BYTES)
            caller = caller_of(request)
            with trials.taken():
                result = await run_in_threadpool(
                    _trial, store, asked, lambda: caller.seen(sources())
                )
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Response(msgspec.json.encode(result), 200, NO_STORE, JSON)

    return [
        Operation("/api/v1/rules/trial", trial, gives=RulesTrial, body=RulesTried),
        page("/rules", "control/rules.html", _DRAWING),
    ]


def _trial(store: str, asked: RulesTried, sources: Callable[[], Sequence[str]]) -> RulesTrial:
    config = _config(asked)
    known = sources()
    if asked.source and asked.source not in known:
        raise Refusal(404, unknown_sources([asked.source[:32]], known))
    names = [name for name in known if config.of_source(name)]
    if asked.source:
        names = [asked.source]
    tried: list[TrialFrames] = []
    due_mono = time.monotonic() + TRIAL_S
    with store_errors(store), closing(connect(store)) as client:
        entries = itertools.chain.from_iterable(
            _in_time(_stored(client, name, asked.span, MAX_FRAMES // len(names), tried), due_mono)
            for name in names
        )
        with closing(Projection(None)) as projection:
            for source, position, changes in load_builtin("replay_events")(config, entries):
                projection.take([EventEntry(source, position, None, None, changes)])
            episodes, more = find(
                projection.database, EpisodeFilter(), MAX_EPISODES, oldest_first=True
            )
    return RulesTrial(episodes, more is not None, tried)


def _config(asked: RulesTried) -> EventsConfig:
    """Read the rules as a run reads them. Refusal with all faults."""
    faults: list[str] = []
    config = read_events(asked.events, faults)
    if config is None or faults:
        raise Refusal(400, "\n".join(faults))
    if not config.rules:
        raise Refusal(400, "events.rules: there is no rule to try")
    return config


def _in_time(entries: Iterator[T], due_mono: float) -> Iterator[T]:
    """Yield the entries until `due_mono`. Refusal afterwards."""
    for entry in entries:
        if time.monotonic() > due_mono:
            raise Refusal(503, f"the trial takes longer than {TRIAL_S:g} s; try a shorter span")
        yield entry


def _stored(
    client: Any, source: str, span_s: float, max_frames: int, tried: list[TrialFrames]
) -> Iterator[Result | tuple[str, End]]:
    """Yield the results and ends of a source in a span up to its newest result, oldest first.

    Adds the number and times of the results to `tried`.
    """
    # Encoded, newest first: decoded results take ten times the memory.
    entries: list[tuple[bytes, bytes]] = []
    times: list[float] = []
    is_whole = False  # if the loop ends before the span does: the limit, or no older results
    for kind, data in _newest_first(client, source):
        if kind == FRAME.encode():
            captured = records.decode(data, _Captured).captured
            if times and captured < times[0] - span_s:
                is_whole = True
                break
            if len(times) == max_frames:
                break
            times.append(captured)
        entries.append((kind, data))
    if times:
        tried.append(TrialFrames(source, len(times), times[-1], times[0], is_whole))
    for kind, data in reversed(entries):
        if kind == END.encode():
            yield source, records.decode_versioned(data, End)
        else:
            yield records.decode_versioned(data, Result)


def _newest_first(client: Any, source: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and data of a source's stored entries."""
    before = "+"
    while entries := client.xrevrange(keys.results(source), before, count=_PAGE):
        for _, fields in entries:
            yield fields[b"k"], fields[b"d"]
        before = f"({entries[-1][0].decode()}"


class _Captured(msgspec.Struct):
    captured: float
