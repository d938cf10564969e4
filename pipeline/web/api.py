"""/api/v1: a run's results and sources for programs, as JSON and as a stream of events.

Positions are said for several sources at once, `door=1-250,yard=1-248`: that is an event's id, what
`after` takes, and what `next` gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

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
from framegate.pipeline.contracts.errors import FramegateError, ResultsTrimmed
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.review.projector import EPISODES
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import FRAME
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
    MOST_LIMIT,
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

log = logging.getLogger(__name__)

SCANNED: Final = 10_000  # entries of a source that one request may look at
HEARTBEAT_S: Final = 15.0
LOOK_S: Final = 1.0
LAST_S: Final = 0.3  # for which a stream waits for what is there when the run ends
_ANY: Final = asyncio.FIRST_COMPLETED
PATIENCE_S: Final = 60.0
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

T = TypeVar("T")
Positions = dict[str, str]


@dataclass(frozen=True)
class Wish:
    """What a request asks for."""

    sources: list[str]
    named: bool
    channel: Channel[Any]
    after: Positions | None
    span: Span
    limit: int


def api_routes(
    store: str,
    sources: Callable[[], Sequence[str]],
    leaving: asyncio.Event | None = None,
    streams: AtOnce | None = None,
) -> list[Route]:
    """The routes.

    sources  names of the run's, now; may block for some ms
    leaving  set when the server is to end: streams give what is there, and end
    streams  the places of streams, of pictures too
    """
    places = streams or AtOnce(LIMITS.streams, "streams")
    asked = _Results(store, sources, leaving or asyncio.Event(), places)
    listed = [SOURCE, _STAGE, FROM, TO, AFTER, AT_MOST]
    streamed = [SOURCE, _STAGE, FROM, TO, AFTER, STREAM_START, LAST_ID]
    results, episodes = (media(_EVENTS, text) for text in (_RESULT_EVENTS, _EPISODE_EVENTS))
    told = [SOURCE, AFTER, STREAM_START, LAST_ID]
    return [
        Operation("/api/v1/results", asked.results, listed, gives=Page),
        Operation("/api/v1/results/stream", asked.stream, streamed, gives=results),
        Operation("/api/v1/episodes/live", asked.live, told, gives=episodes),
        Operation("/api/v1/openapi.json", _described, gives=dict[str, Any]),
    ]


def _described(request: Request) -> Response:
    """The OpenAPI 3.1 document of all paths under /api/v1."""
    return Response(msgspec.json.encode(document(request.app.routes)), 200, None, JSON)


class _Results:
    """Results of a run for whoever asks. One event loop."""

    def __init__(
        self,
        store: str,
        sources: Callable[[], Sequence[str]],
        leaving: asyncio.Event,
        streams: AtOnce,
    ) -> None:
        self._store, self._sources = store, sources
        self._leaving, self._streams = leaving, streams

    async def results(self, request: Request) -> Response:
        """Results as JSON: the last of each source; `?source=A,B`, `?limit=` for each (100, at most
        1000), `?from=` and `?to=` a time or position, `?after=` `next` of the last response,
        `?stage=NAME` outputs of a stage instead.
        """
        try:
            wish = _wish(request.query_params, await run_in_threadpool(self._sources))
            page = await run_in_threadpool(_page, self._store, wish)
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
                known = await run_in_threadpool(self._sources)
                wish = _wish(request.query_params, known, channel)
                start = await run_in_threadpool(_start, self._store, wish, request)
                kept = held.pop_all()
        except (Refusal, FramegateError) as error:
            return refused(error)
        return Streamed(_events(self._store, wish, start, self._leaving), _EVENTS, kept)


# -- What is asked for.


def _wish(asked: QueryParams, known: Sequence[str], channel: Channel[Any] | None = None) -> Wish:
    """channel: what is read whatever `stage` says."""
    names = [name for said in asked.getlist("source") for name in said.split(",") if name]
    if strange := set(names) - set(known):
        raise Refusal(404, unknown_sources([name[:32] for name in strange], known))
    stage = asked.get("stage")
    if stage is not None and not keys.is_name(stage):
        raise Refusal(400, f"stage: {stage[:32]!r}; {keys.NAME_RULE}")
    return Wish(
        sources=sorted(set(names) or set(known)),
        named=bool(names),
        channel=channel or (RESULTS if stage is None else outputs(stage, object)),
        after=_positions("after", asked["after"]) if "after" in asked else None,
        span=Span(_moment("from", asked.get("from")), _moment("to", asked.get("to"))),
        limit=limit_of(asked),
    )


def _positions(what: str, text: str) -> Positions:
    """Read `door=1-250,yard=1-248`."""
    try:
        pairs = dict(each.split("=") for each in text.split(",") if each)
        return {name: _position(at) for name, at in pairs.items()}
    except ValueError:
        rule = "allowed is SOURCE=EPOCH-SEQ, several with commas between, as `next` and ids say it"
        raise Refusal(400, f"{what}: {text[:80]!r}; {rule}") from None


def _position(text: str) -> str:
    """Return a position as the store takes it. ValueError if it cannot be one."""
    position = Position.parse(text)
    if not (0 <= position.epoch <= WHOLE and 0 <= position.seq <= WHOLE):
        raise ValueError(text)
    return str(position)


def _said(positions: Mapping[str, str]) -> str:
    return ",".join(f"{name}={at}" for name, at in positions.items())


def _moment(what: str, text: str | None) -> TimeOrPosition | None:
    if not text:
        return None
    try:
        return moment(text, time.time())
    except ValueError as error:
        raise Refusal(400, f"{what}: {error}") from None


def limit_of(asked: QueryParams) -> int:
    """How much is asked for at most. Refusal."""
    return whole_number(asked, "limit", LIMIT, 1, MOST_LIMIT)


# -- A range of results.


def _page(store: str, wish: Wish) -> Page:
    """Read it. StoreLost, StoreBusy, StoreRefused."""
    found: list[Any] = []
    going_on: Positions = {}
    more = False
    with store_errors(store), connect(store) as client:
        for source in wish.sources:
            if wish.after is None and wish.span == Span():
                read, at, left = _last(client, source, wish)
            else:
                read, at, left = _range(client, source, wish)
            found += read
            going_on[source] = str(at)
            more = more or left
    return Page(found, _said(going_on), more)


def _last(client: Any, source: str, wish: Wish) -> tuple[list[Any], Position, bool]:
    """The last ones, and where they end."""
    entries = client.xrevrange(wish.channel.stream(source), count=wish.limit)
    at = Position.parse(entries[0][0]) if entries else START
    return _read(source, wish, entries[::-1]), at, False


def _range(client: Any, source: str, wish: Wish) -> tuple[list[Any], Position, bool]:
    """The first ones of a span after a position; how far one has looked; whether more is there."""
    at = Position.parse((wish.after or {}).get(source, str(START)))
    found: list[Any] = []
    for _ in range(SCANNED // MOST_LIMIT):
        least = f"({at}" if at != START else "-"
        entries = client.xrange(wish.channel.stream(source), least, count=MOST_LIMIT)
        for entry in entries:
            found += _read(source, wish, [entry])
            at = Position.parse(entry[0])
            if len(found) == wish.limit:
                return found, at, entry is not entries[-1] or len(entries) == MOST_LIMIT
        if len(entries) < MOST_LIMIT:
            return found, at, False
    return found, at, True


def _read(source: str, wish: Wish, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> Any:
    frames = (
        wish.channel.read(source, Position.parse(at), fields[b"d"])
        for at, fields in entries
        if fields[b"k"] == FRAME.encode()
    )
    return [each for each in frames if each is not None and wish.span.has(each)]


# -- A stream of events.


def _start(store: str, wish: Wish, request: Request) -> Positions:
    """After which positions it begins; a source that is not there begins with its oldest."""
    last_id = request.headers.get("last-event-id")
    if last_id:
        return _positions("Last-Event-ID", last_id)
    if wish.after is not None:
        return wish.after
    start = request.query_params.get("start", "new")
    if start == "earliest":
        return {}
    if start != "new":
        raise Refusal(400, f"start: {start[:20]!r}; allowed: new, earliest")
    with store_errors(store), connect(store) as client:
        newest = {
            name: client.xrevrange(wish.channel.stream(name), count=1) for name in wish.sources
        }
    return {
        name: entries[0][0].decode() if entries else str(START) for name, entries in newest.items()
    }


async def _events(
    store: str, wish: Wish, start: Positions, leaving: asyncio.Event
) -> AsyncIterator[bytes]:
    """The events; nothing, once a second, while there are none."""
    # Before the first epoch there was nothing that could be missed.
    begin = {name: f"0-{WHOLE}" if at == str(START) else at for name, at in start.items()}
    names = wish.sources if wish.named else None
    reader = Reader(store, Follower(names, begin, False, wish.channel), PATIENCE_S)
    positions, ended, said_mono = dict(start), set[str](), time.monotonic()
    yield b"retry: 2000\n\n"
    async with Subscription[Any](reader) as found:
        coming = asyncio.ensure_future(anext(found))
        over = asyncio.ensure_future(leaving.wait())
        try:
            while True:
                if not over.done():
                    waited_for = {coming, over}
                    await asyncio.wait(waited_for, timeout=LOOK_S, return_when=_ANY)
                if over.done() and not coming.done():
                    await asyncio.wait({coming}, timeout=LAST_S)
                told = b""
                if coming.done():
                    try:
                        each = coming.result()
                        positions[each.source] = str(each.position)
                        if isinstance(each, EventEntry):
                            told = _events_of(each.changes.changes, _said(positions))
                        elif wish.span.has(each):
                            told = _event(each, _said(positions))
                    except ResultsTrimmed as gap:
                        trimmed = Trimmed(gap.source, gap.after, gap.before)
                        told = _event(trimmed, kind="trimmed")
                    except FramegateError as error:
                        yield _event(ApiFault(str(error)), kind="fault")
                        return
                    coming = asyncio.ensure_future(anext(found))
                for name, end in found.ends.items():
                    if end.last and name not in ended:
                        told += _event(SourceEnd(name, end.frames, end.fault), kind="end")
                ended = {name for name, end in found.ends.items() if end.last}
                if not told and time.monotonic() - said_mono > HEARTBEAT_S:
                    told = b": nothing new\n\n"
                if told:
                    said_mono = time.monotonic()
                    yield told
                elif over.done():
                    return
        finally:
            await cancelled(coming, over)


def _events_of(changes: Sequence[Change], at: str) -> bytes:
    """An event each; only the last has the position: who has that has all of them."""
    last = len(changes) - 1
    return b"".join(_event(each, at if i == last else "") for i, each in enumerate(changes))


def _event(data: Any, at: str = "", kind: str = "") -> bytes:
    head = (f"id: {at}\n" if at else "") + (f"event: {kind}\n" if kind else "")
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
