"""/api/v1: results and episodes of a run for programs, as JSON and as a stream of events.

Positions of several sources are one text, `door=1-250,yard=1-248`. The id of an event, the
parameter `after` and the field `next` have this form.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import (
    RESULTS,
    WHOLE,
    Channel,
    Follower,
    outputs,
    unknown_sources,
)
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.client.when import Span, TimeOrPosition, moment
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.episodes import Change, EventEntry
from framegate.pipeline.contracts.errors import FramegateError, ResultsTrimmed, did_you_mean
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.review.projector import EPISODES
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.limits import (
    JSON,
    LIMITS,
    NO_STORE,
    AtOnce,
    Refusal,
    Streamed,
    refused,
    whole_number,
)
from framegate.pipeline.web.openapi import (
    AFTER,
    AT_MOST,
    FROM,
    LAST_ID,
    LIMIT,
    MAX_LIMIT,
    SOURCE,
    STREAM_START,
    TO,
    ApiFault,
    Operation,
    Page,
    SourceEnd,
    Trimmed,
    document,
    media,
    parameter,
)
from framegate.pipeline.web.route_table import caller_of

MAX_RESULTS: Final = 20_000  # of one response, of all sources together: about 80 MB
SCANNED: Final = 10_000  # entries of a source that one request may read
HEARTBEAT_S: Final = 15.0
LOOK_S: Final = 1.0  # between two checks for ended sources, and for a heartbeat
LAST_S: Final = 0.3  # for which a stream waits for the next stored result when the run ends
PATIENCE_S: Final = 60.0  # for which a stream waits for a store that does not answer
_EVENTS: Final = "text/event-stream"
_STAGE: Final = parameter("stage", "Outputs of this stage instead of results")
_RESULT_EVENTS: Final = (
    "An event without a name: its data are a Result, or an Output; a reader that sends its id as "
    "Last-Event-ID continues there. `trimmed`: a Trimmed. `end`: a SourceEnd. `fault`: an "
    "ApiFault, and the stream ends. A comment comes while there is nothing new."
)
_EPISODE_EVENTS: Final = (
    "An event without a name: its data are a Change. Those of one frame come together, and the "
    "last of them has the id. Else as the stream of results"
)

Positions = dict[str, str]


@dataclass(frozen=True)
class PageQuery:
    """The parameters of a request.

    sources   names of the sources
    is_named  whether the request names them; otherwise a stream also follows sources added later
    channel   results, outputs of a stage, or changes of episodes
    after     position of each source after which the reader continues; None: not given
    span      times or positions between which entries are wanted
    limit     results of each source, at most
    """

    sources: list[str]
    is_named: bool
    channel: Channel[Any]
    after: Positions | None
    span: Span
    limit: int


def api_routes(
    store: str,
    sources: Callable[[], Sequence[str]],
    leaving: asyncio.Event | None = None,
    streams: AtOnce | None = None,
    stages: Sequence[str] = (),
) -> list[Route]:
    """Return the routes.

    sources  returns the names of the run's sources; may block for some ms
    leaving  set when the server is to end: a stream sends the stored results, and ends
    streams  limit of streams, shared with those of pictures
    stages   stages with outputs of their own; empty: unknown
    """
    places = streams or AtOnce(LIMITS.streams, "streams")
    api = _Results(store, sources, leaving or asyncio.Event(), places, stages)
    listed = [SOURCE, _STAGE, FROM, TO, AFTER, AT_MOST]
    streamed = [SOURCE, _STAGE, FROM, TO, AFTER, STREAM_START, LAST_ID]
    followed = [SOURCE, AFTER, STREAM_START, LAST_ID]
    results = media(_EVENTS, _RESULT_EVENTS)
    episodes = media(_EVENTS, _EPISODE_EVENTS)
    return [
        Operation("/api/v1/results", api.results, listed, gives=Page),
        Operation("/api/v1/results/stream", api.stream, streamed, gives=results),
        Operation("/api/v1/episodes/live", api.live, followed, gives=episodes),
        Operation("/api/v1/openapi.json", _described, gives=dict[str, Any]),
    ]


def _described(request: Request) -> Response:
    """The OpenAPI 3.1 document of all paths under /api/v1."""
    return Response(msgspec.json.encode(document(request.app.routes)), 200, None, JSON)


class _Results:
    """The endpoints for results and changes of episodes. Lives in one event loop."""

    def __init__(
        self,
        store: str,
        sources: Callable[[], Sequence[str]],
        leaving: asyncio.Event,
        streams: AtOnce,
        stages: Sequence[str],
    ) -> None:
        self._store = store
        self._sources = sources
        self._leaving = leaving
        self._streams = streams
        self._stages = stages

    async def results(self, request: Request) -> Response:
        """Results as JSON: the last of each source; `?source=A,B`, `?limit=` for each (100, at most
        1000), `?from=` and `?to=` a time or position, `?after=` `next` of the last response,
        `?stage=NAME` outputs of a stage instead.
        """
        try:
            query = await self._query(request)
            page = await run_in_threadpool(_page, self._store, query)
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Response(msgspec.json.encode(page), 200, NO_STORE, JSON)

    async def stream(self, request: Request) -> Response:
        """New results as Server-Sent Events; continues after `Last-Event-ID` or `?after=`;
        `?start=earliest` includes stored ones; `?source=A,B`, `?stage=NAME`.
        """
        return await self._streamed(request, None)

    async def live(self, request: Request) -> Response:
        """Changes of episodes as Server-Sent Events; the same parameters, except `stage`."""
        return await self._streamed(request, EPISODES)

    async def _streamed(self, request: Request, channel: Channel[Any] | None) -> Response:
        try:
            with contextlib.ExitStack() as held:
                held.enter_context(self._streams.taken())
                query = await self._query(request, channel)
                start = await run_in_threadpool(_start, self._store, query, request)
                kept = held.pop_all()
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Streamed(_events(self._store, query, start, self._leaving), _EVENTS, kept)

    async def _query(self, request: Request, channel: Channel[Any] | None = None) -> PageQuery:
        """Return the parameters of a request, with sources that its caller may see. Refusal."""
        caller = caller_of(request)
        known = caller.seen(await run_in_threadpool(self._sources))
        query = _query(request.query_params, known, channel)
        stage = request.query_params.get("stage", "")
        if channel is None and stage and self._stages and stage not in self._stages:
            await run_in_threadpool(self._check_stored, stage, query)
        return replace(query, is_named=query.is_named or caller.sources is not None)

    def _check_stored(self, stage: str, query: PageQuery) -> None:
        """Raise Refusal unless the run had this stage before it was resumed, and its outputs."""
        streams = [query.channel.stream(source) for source in query.sources]
        with store_errors(self._store), connect(self._store) as client:
            is_stored = bool(streams) and client.exists(*streams)
        if not is_stored:
            known = sorted(self._stages)
            near = did_you_mean(stage, known)
            there = ", ".join(known)
            raise Refusal(404, f"no stage {stage!r} has outputs; there are: {there}{near}")


# -- The parameters of a request.


def _query(
    asked: QueryParams, known: Sequence[str], channel: Channel[Any] | None = None
) -> PageQuery:
    """Read the parameters. Refusal.

    known    names of the run's sources
    channel  the channel to read; None: the one that `stage` selects
    """
    names = set(names_of(asked, "source"))
    unknown = names - set(known)
    if unknown:
        raise Refusal(404, unknown_sources([name[:32] for name in unknown], known))
    stage = asked.get("stage")
    if stage is not None and not keys.is_name(stage):
        raise Refusal(400, f"stage: {stage[:32]!r}; {keys.NAME_RULE}")
    if channel is None:
        channel = RESULTS
        if stage is not None:
            channel = outputs(stage, object)
    after = None
    if "after" in asked:
        after = _positions("after", asked["after"])
    return PageQuery(
        sources=sorted(names or known),
        is_named=bool(names),
        channel=channel,
        after=after,
        span=Span(_moment("from", asked.get("from")), _moment("to", asked.get("to"))),
        limit=min(limit_of(asked), max(1, MAX_RESULTS // max(1, len(names or known)))),
    )


def names_of(asked: QueryParams, parameter: str) -> list[str]:
    """Return the names in a parameter, which may occur several times and contain commas."""
    text = ",".join(asked.getlist(parameter))
    return [name for name in text.split(",") if name]


def _positions(parameter: str, text: str) -> Positions:
    """Parse `door=1-250,yard=1-248`. Refusal."""
    try:
        pairs = dict(each.split("=") for each in text.split(",") if each)
        return {name: _position(at) for name, at in pairs.items()}
    except ValueError:
        rule = "allowed: SOURCE=EPOCH-SEQ, several with commas between, as in `next` and in ids"
        raise Refusal(400, f"{parameter}: {text[:80]!r}; {rule}") from None


def _position(text: str) -> str:
    """Return a position as the store takes it. ValueError if it cannot be one."""
    position = Position.parse(text)
    if not (0 <= position.epoch <= WHOLE and 0 <= position.seq <= WHOLE):
        raise ValueError(text)
    return str(position)


def _text_of(positions: Mapping[str, str]) -> str:
    return ",".join(f"{name}={at}" for name, at in positions.items())


def _moment(parameter: str, text: str | None) -> TimeOrPosition | None:
    if not text:
        return None
    try:
        return moment(text, time.time())
    except ValueError as error:
        raise Refusal(400, f"{parameter} {error}") from None


def limit_of(asked: QueryParams) -> int:
    """Return the parameter `limit`. Refusal."""
    return whole_number(asked, "limit", LIMIT, 1, MAX_LIMIT)


# -- A range of results.


def _page(store: str, query: PageQuery) -> Page:
    """Read a page of results. StoreLost, StoreBusy, StoreRefused."""
    results: list[Any] = []
    positions: Positions = {}
    has_more = False
    wants_newest = query.after is None and query.span == Span()
    with store_errors(store), connect(store) as client:
        for source in query.sources:
            if wants_newest:
                read, at, is_cut = _last(client, source, query)
            else:
                read, at, is_cut = _range(client, source, query)
            results += read
            positions[source] = str(at)
            has_more = has_more or is_cut
    return Page(results, _text_of(positions), has_more)


def _last(client: Any, source: str, query: PageQuery) -> tuple[list[Any], Position, bool]:
    """Return the newest results, the position of the last, and False: there are no later ones."""
    entries = client.xrevrange(query.channel.stream(source), count=query.limit)
    at = START
    if entries:
        at = Position.parse(entries[0][0])
    return _read(source, query, entries[::-1]), at, False


def _range(client: Any, source: str, query: PageQuery) -> tuple[list[Any], Position, bool]:
    """Return the first results of the span after a position.

    Also the position of the last entry that was read, and whether there may be more after it.
    """
    at = Position.parse((query.after or {}).get(source, str(START)))
    results: list[Any] = []
    # `at` is the last entry that was read. Each page begins after it; a short page is the last.
    for _ in range(SCANNED // MAX_LIMIT):
        begin = f"({at}"
        if at == START:
            begin = "-"
        entries = client.xrange(query.channel.stream(source), begin, count=MAX_LIMIT)
        is_last_page = len(entries) < MAX_LIMIT
        for entry in entries:
            results += _read(source, query, [entry])
            at = Position.parse(entry[0])
            if len(results) == query.limit:
                is_all = is_last_page and entry is entries[-1]
                return results, at, not is_all
        if is_last_page:
            return results, at, False
    return results, at, True


def _read(
    source: str, query: PageQuery, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
) -> Any:
    """Decode the entries that are frames, and return those in the span."""
    frames = (
        query.channel.read(source, Position.parse(at), fields[b"d"])
        for at, fields in entries
        if fields[b"k"] == FRAME.encode()
    )
    return [each for each in frames if each is not None and query.span.has(each)]


# -- A stream of events.


def _start(store: str, query: PageQuery, request: Request) -> Positions:
    """Return the positions after which a stream begins.

    A source of the run without a position begins with its oldest stored result. Other sources of
    the store were removed from the run, or belong to another run: of these, nothing stored is sent.
    """
    positions = _given_start(query, request)
    outset = []
    if positions is None:
        positions = dict.fromkeys(query.sources, str(START))
        outset = list(query.sources)
    with store_errors(store), connect(store) as client:
        if not query.is_named:
            registered = {name.decode() for name in client.hkeys(keys.SOURCES)}
            outset += sorted(registered - set(query.sources) - positions.keys())
        for name in outset:
            newest = client.xrevrange(query.channel.stream(name), count=1)
            positions[name] = str(START)
            if newest:
                positions[name] = newest[0][0].decode()
    return positions


def _given_start(query: PageQuery, request: Request) -> Positions | None:
    """Return the positions that a request gives; None if it begins with new results. Refusal."""
    last_id = request.headers.get("last-event-id")
    if last_id:
        return _positions("Last-Event-ID", last_id)
    if query.after is not None:
        return dict(query.after)
    start = request.query_params.get("start", "new")
    if start == "earliest":
        return {}
    if start != "new":
        raise Refusal(400, f"start: {start[:20]!r}; allowed: new, earliest")
    return None


async def _events(
    store: str, query: PageQuery, start: Positions, leaving: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield the events of a stream, until the client's connection or the server ends."""
    begin = dict(start)
    for name, at in start.items():
        # A source without results begins before its first epoch: there, nothing can be missed.
        if at == str(START):
            begin[name] = f"0-{WHOLE}"
    names = None
    if query.is_named:
        names = query.sources
    reader = Reader(store, Follower(names, begin, False, query.channel), PATIENCE_S)
    positions = dict(start)
    ended: set[str] = set()
    sent_mono = time.monotonic()
    yield b"retry: 2000\n\n"
    async with Subscription[Any](reader) as subscription:
        # `coming` is always the next entry, and `over` the end of the server. Each turn waits for
        # either, at most LOOK_S, and sends all events of the entry at once: `positions`, the id
        # of the last of them, is then after the entry. When the server ends, the stream continues
        # while the next entry comes within LAST_S, so that the last stored results are sent.
        coming = asyncio.ensure_future(anext(subscription))
        over = asyncio.ensure_future(leaving.wait())
        try:
            while True:
                if not over.done():
                    await asyncio.wait(
                        {coming, over}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                    )
                if over.done() and not coming.done():
                    await asyncio.wait({coming}, timeout=LAST_S)
                events = b""
                if coming.done():
                    try:
                        events = _events_of_next(coming, query, positions)
                    except FramegateError as error:
                        yield _event(ApiFault(str(error)), kind="fault")
                        return
                    coming = asyncio.ensure_future(anext(subscription))
                for name, end in subscription.ends.items():
                    if end.last and name not in ended:
                        events += _event(SourceEnd(name, end.frames, end.fault), kind="end")
                ended = {name for name, end in subscription.ends.items() if end.last}
                if not events and time.monotonic() - sent_mono > HEARTBEAT_S:
                    events = b": nothing new\n\n"
                if events:
                    sent_mono = time.monotonic()
                    yield events
                elif over.done():
                    return
        finally:
            await cancelled(coming, over)


def _events_of_next(coming: asyncio.Future[Any], query: PageQuery, positions: Positions) -> bytes:
    """Return the events of the next entry, and move `positions` after it. FramegateError."""
    try:
        entry = coming.result()
    except ResultsTrimmed as gap:
        return _event(Trimmed(gap.source, gap.after, gap.before), kind="trimmed")
    positions[entry.source] = str(entry.position)
    if isinstance(entry, EventEntry):
        return _events_of(entry.changes.changes, _text_of(positions))
    if query.span.has(entry):
        return _event(entry, _text_of(positions))
    return b""


def _events_of(changes: Sequence[Change], at: str) -> bytes:
    """Return an event for each change. Only the last has the id: its reader has all of them."""
    if not changes:
        return b""
    first = [_event(change) for change in changes[:-1]]
    return b"".join(first) + _event(changes[-1], at)


def _event(data: Any, at: str = "", kind: str = "") -> bytes:
    head = ""
    if at:
        head += f"id: {at}\n"
    if kind:
        head += f"event: {kind}\n"
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
