"""Fills the database of episodes while a run goes on: a task beside it, for which nobody waits.

A disk that is slow, or full, holds up this task alone: what rules say stays in the store.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import Channel, Follower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import (
    Change,
    Changes,
    EventEntry,
    read_events,
    read_last_events,
)
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    FramegateError,
    RecordTooNew,
    ResultsTrimmed,
)
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.recording.index import pin_clips
from framegate.pipeline.review.projection import DatabaseRefused, Projection, Watched
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.system.process import cancelled, in_thread

log = logging.getLogger(__name__)

TRY_AGAIN_S: Final = 5.0
TIDY_S: Final = 60.0
MOST_EPOCHS: Final = 20  # of a source, of which one look finds out when they were watched
PATIENCE_S: Final = 60.0
MOST_UNPINNED: Final = 1000  # changes whose clips the index did not take, the newest ones
LAST_S: Final = 3.0  # for which the end of a run waits for what it still has to read


def _readable(source: str, position: Position, data: bytes) -> EventEntry:
    """Read a frame's entry; one that is no such record says nothing, and is passed over."""
    try:
        return read_events(source, position, data)
    except (msgspec.MsgspecError, RecordTooNew) as error:
        log.warning("source %s: output of rules at %s cannot be read: %s", source, position, error)
        return EventEntry(source, position, START, None, Changes())


def _readable_end(source: str, position: Position, end: End) -> EventEntry | None:
    try:
        return read_last_events(source, position, end)
    except (msgspec.MsgspecError, RecordTooNew) as error:
        log.warning("source %s: output of rules at %s cannot be read: %s", source, position, error)
        return None


EPISODES: Final = Channel(
    lambda source: keys.out(source, keys.EVENTS), _readable, last=_readable_end
)
"""What the stage `events` says of each source."""


class Projector:
    """Reads what rules say of a run's sources into its database. Lives in one event loop."""

    def __init__(self, url: str, file: Path, most: int, age_s: float) -> None:
        """url: of the store. most, age_s: see Projection.keep."""
        self._url, self._file = url, file
        self._most, self._age_s = most, age_s
        self._names: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._failing = False
        self._unpinned: list[Change] = []
        self._pinning = asyncio.Lock()

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Read these sources from now on."""
        self._names = frozenset(source.name for source in sources)
        self._changed.set()

    async def run(self) -> None:
        """Read until cancelled; then, for some seconds at most, what is there still."""
        try:
            projection = await self._opened()
        except DatabaseRefused as error:
            log.error("%s; nothing is stored of episodes. Move it away: a new one is made", error)
            return
        try:
            before = self._names
            while True:
                self._changed.clear()
                names = self._names
                await self._read_on(projection, names, before - names)
                before = names
        finally:
            last = asyncio.ensure_future(self._read_last(projection))
            await asyncio.wait({last}, timeout=LAST_S)
            await cancelled(last)
            if last.cancelled() or last.exception() is not None:
                log.warning("episodes: some entries were not read; a later run continues there")
            projection.close()

    async def _opened(self) -> Projection:
        opened: Projection = await self._tried(Projection, self._file)
        return opened

    async def _read_on(
        self, projection: Projection, names: frozenset[str], gone: frozenset[str]
    ) -> None:
        """Read until there are other sources, and of those that are gone what they left."""
        tasks = {
            asyncio.ensure_future(task)
            for task in (
                self._changed.wait(),
                self._follow_on(projection, names, gone),
                self._tidy(projection, names),
            )
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancelled(*tasks)

    async def _follow_on(
        self, projection: Projection, names: Collection[str], gone: Collection[str]
    ) -> None:
        await self._follow(projection, gone, once=True)
        await self._follow(projection, names, once=False)

    async def _read_last(self, projection: Projection) -> None:
        await self._follow(projection, self._names, once=True)
        await self._pin()
        await self._tried(projection.watch, await in_thread(watched, self._url, self._names))

    async def _follow(self, projection: Projection, names: Collection[str], once: bool) -> None:
        """Read the sources' streams on: for ever, or what is there now."""
        if not names:
            if not once:
                await asyncio.Event().wait()
            return
        known = await self._tried(projection.positions)
        start = {name: str(known[name]) for name in names if name in known}
        follower = Follower(sorted(names), start, until_end=False, channel=EPISODES, once=once)
        reader = Reader(self._url, follower, PATIENCE_S if once else math.inf)
        async with Subscription[Any](reader) as found:
            while True:
                try:
                    said = [await anext(found)]
                except StopAsyncIteration:
                    return
                except ResultsTrimmed:  # of this stream each entry tells which one was before it
                    continue
                except ConfigFaults:  # the store has forgotten a source
                    return
                while follower.ready:
                    said.append(follower.ready.popleft())
                await self._take(
                    projection, [each for each in said if isinstance(each, EventEntry)]
                )

    async def _take(self, projection: Projection, said: Sequence[EventEntry]) -> None:
        # Before the position is stored: what is killed in between pins once more, which is nothing.
        await self._pin([one for each in said for one in each.changes.changes])
        for gap in await self._tried(projection.take, said):
            log.warning("%s", gap)

    async def _pin(self, changes: Sequence[Change] = ()) -> None:
        """Pin the clips of these changes, after those that the index did not take before."""
        async with self._pinning:
            waiting = [*self._unpinned, *changes]
            self._unpinned = (await in_thread(pin_clips, self._file.parent, waiting))[
                -MOST_UNPINNED:
            ]

    async def _tidy(self, projection: Projection, names: Collection[str]) -> None:
        """Once a minute: note which sources are watched, and remove what is too old; pin clips that
        could not be pinned.
        """
        while True:
            await self._pin()
            try:
                seen = await in_thread(watched, self._url, names)
            except FramegateError as error:
                log.debug("episodes: %s", error)
            else:
                await self._tried(projection.watch, seen)
                await self._tried(projection.keep, self._most, self._age_s)
            await asyncio.sleep(TIDY_S)

    async def _tried(self, call: Callable[..., Any], *words: Any) -> Any:
        """Do it in a thread of its own, again and again while the disk does not take it."""
        while True:
            try:
                done = await in_thread(call, *words)
            except (sqlite3.Error, OSError) as error:
                level = logging.DEBUG if self._failing else logging.WARNING
                self._failing = True
                log.log(level, "%s: %s; what rules say stays in the store", self._file, error)
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                if self._failing:
                    log.info("%s: it takes episodes again", self._file)
                self._failing = False
                return done


def watched(url: str, names: Collection[str]) -> list[Watched]:
    """Return when the first and the last result of each source's newest epochs were captured.

    Of the last MOST_EPOCHS: a camera that came and went between two looks has several. StoreLost,
    StoreBusy.
    """
    with store_errors(url), closing(connect(url)) as client:
        return [seen for name in names for seen in _watched_epochs(client, name)]


def _watched_epochs(client: Any, name: str) -> Iterator[Watched]:
    stream, before = keys.results(name), "+"
    for _ in range(MOST_EPOCHS):
        last = client.xrevrange(stream, before, count=2)  # the newest may be an end
        if not last:
            return
        epoch = Position.parse(last[0][0]).epoch
        before = f"({epoch}-0"
        first = client.xrange(stream, f"{epoch}-0", count=1)
        times = [
            records.decode_versioned(fields[b"d"], Result).captured
            for at, fields in [*first, *last]
            if fields[b"k"] == FRAME.encode() and Position.parse(at).epoch == epoch
        ]
        if times:
            yield Watched(name, epoch, min(times), max(times))


def projected(url: str) -> Projection:
    """Return a database in memory of what a store's streams say now. StoreLost, StoreBusy."""
    projection = Projection(None)
    follower = Follower(None, "earliest", until_end=False, channel=EPISODES, once=True)
    with Subscription[Any](Reader(url, follower, PATIENCE_S)) as found:
        while True:
            try:
                said = [next(found)]
            except StopIteration:
                return projection
            except ResultsTrimmed:
                continue
            while follower.ready:
                said.append(follower.ready.popleft())
            projection.take(each for each in said if isinstance(each, EventEntry))
