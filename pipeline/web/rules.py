"""Rules before they are rules: drawn on a still, and tried over the results that the store has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final

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
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import END, FRAME
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.limits import LIMITS, AtOnce, Refusal, WebLimits, posted, refused
from framegate.pipeline.web.openapi import Operation
from framegate.pipeline.web.pages import page
from framegate.pipeline.web.pictures import FRESH

MOST_BYTES: Final = 256 << 10  # of rules that are sent
MOST_FRAMES: Final = 50_000  # of all sources, over which one trial goes
MOST_EPISODES: Final = 1000
TRIAL_S: Final = 20.0
_PAGE: Final = 1000
_DRAWING: Final = (
    "The page to draw areas and lines on a still, and to try a rule before it goes live."
)


class RulesTried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules that are to be tried over results that the store has.

    events  as the table `[events]` of pipeline.toml has them: areas, lines, rules
    source  of which source; empty: of all
    span    seconds before the newest result from which on they are tried
    """

    events: dict[str, Any]
    source: str = ""
    span: float = 3600.0


class TrialFrames(msgspec.Struct, frozen=True):
    """What of a source they were tried over.

    source  name of the source
    frames  results
    since   UNIX seconds at which the first was captured
    until   and the last
    whole   whether that is all of the span that was asked for
    """

    source: str
    frames: int
    since: float
    until: float
    whole: bool


class RulesTrial(msgspec.Struct, frozen=True):
    """What rules would have told.

    episodes  the episodes, the first ones first; none of them is stored
    more      whether there are more than these
    tried     over what
    """

    episodes: list[Episode]
    more: bool
    tried: list[TrialFrames]


def rule_routes(
    store: str, sources: Callable[[], Sequence[str]], limits: WebLimits = LIMITS
) -> list[Route]:
    """The routes. store: its URL; sources: names of the run's, now; may block for some ms."""
    trials = AtOnce(limits.trials, "trials of rules")

    async def trial(request: Request) -> Response:
        """Try rules over the results that are stored; tells what they would have told."""
        try:
            asked = await posted(request, RulesTried, MOST_BYTES)
            with trials.taken():
                told = await run_in_threadpool(_trial, store, asked, sources)
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Response(msgspec.json.encode(told), 200, FRESH, "application/json")

    return [
        Operation("/api/v1/rules/trial", trial, gives=RulesTrial, body=RulesTried),
        page("/rules", "rules.html", _DRAWING),
    ]


def _trial(store: str, asked: RulesTried, sources: Callable[[], Sequence[str]]) -> RulesTrial:
    config = _config(asked)
    known = sources()
    if asked.source and asked.source not in known:
        raise Refusal(404, unknown_sources([asked.source[:32]], known))
    names = [asked.source] if asked.source else [n for n in known if config.of_source(n)]
    tried: list[TrialFrames] = []
    due_mono = time.monotonic() + TRIAL_S
    with store_errors(store), closing(connect(store)) as client:
        entries = (
            entry
            for name in names
            for entry in _stored(client, name, asked.span, MOST_FRAMES // len(names), tried)
        )
        with closing(Projection(None)) as projection:
            for source, position, changes in load_builtin("replay_events")(config, entries):
                projection.take([EventEntry(source, position, None, None, changes)])
                if time.monotonic() > due_mono:
                    raise Refusal(503, f"it takes longer than {TRIAL_S:g} s; try a shorter span")
            found, more = find(
                projection.database, EpisodeFilter(), MOST_EPISODES, oldest_first=True
            )
    return RulesTrial(found, more is not None, tried)


def _config(asked: RulesTried) -> EventsConfig:
    """The rules as a run would read them. Refusal with all that is wrong."""
    faults: list[str] = []
    config = read_events(asked.events, faults)
    if config is None or faults:
        raise Refusal(400, "\n".join(faults))
    if not config.rules:
        raise Refusal(400, "events.rules: there is no rule to try")
    return config


def _stored(
    client: Any, source: str, span_s: float, most: int, tried: list[TrialFrames]
) -> Iterator[Result | tuple[str, End]]:
    """The results and ends of a source within a span before its newest result, the oldest first;
    what they are is added to `tried`.
    """
    found: list[tuple[bytes, bytes]] = []  # as they are: a result takes ten times the memory
    times: list[float] = []
    before, whole = "+", True
    while page := client.xrevrange(keys.results(source), before, count=_PAGE):
        for _, fields in page:
            if fields[b"k"] == FRAME.encode():
                captured = records.decode(fields[b"d"], _Captured).captured
                if times and captured < times[0] - span_s:
                    break
                if len(times) == most:
                    whole = False
                    break
                times.append(captured)
            found.append((fields[b"k"], fields[b"d"]))
        else:
            before = f"({page[-1][0].decode()}"
            continue
        break
    else:
        whole = False  # the store has no older ones
    if times:
        tried.append(TrialFrames(source, len(times), times[-1], times[0], whole))
    for kind, data in reversed(found):
        if kind == END.encode():
            yield source, records.decode_versioned(data, End)
        else:
            yield records.decode_versioned(data, Result)


class _Captured(msgspec.Struct):
    captured: float
