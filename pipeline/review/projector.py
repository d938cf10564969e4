"""Fill the database of episodes during a run, in a task for which no other part of the run waits.

A slow or full disk delays only this task; the output of rules and the visits stay in the store.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import Channel, Follower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import (
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
from framegate.pipeline.contracts.visits import VisitEntry, read_last_visits, read_visits
from framegate.pipeline.recording.clips import is_recorded, pin_clips, recorded_clips
from framegate.pipeline.recording.index import Pin, clip_pins
from framegate.pipeline.review.event_database import DatabaseRefused
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.process import cancelled, in_thread

log = logging.getLogger(__name__)

TRY_AGAIN_S: Final = 5.0  # after a fault of the disk
TIDY_S: Final = 60.0
OTHERS_S: Final = 5.0  # between two looks for episodes of other slots; nobody waits for them
# A run names its sources, so the projector need not look for new ones each second. With one quiet
# camera these looks took half of the CPU time of the supervisor.
BLOCK_MS: Final = "5000"
ENDED: Final = "ended"  # of an epoch without a fault: its source or the run ended
MAX_ENDS: Final = 20  # that are passed over to find the last frame before them
MAX_WHY: Final = 200  # characters of the reason for which a camera was away
MAX_EPOCHS: Final = 20  # of a source, whose times one look reads
PATIENCE_S: Final = 60.0  # for a store that does not answer, when the stored entries are read
MAX_UNPINNED: Final = 1000  # pins of clips that wait until the index takes them; older ones go
LAST_S: Final = 3.0  # for which the end of a run waits for the last entries


def _readable(source: str, position: Position, data: bytes) -> EventEntry:
    """Decode a frame's entry. Log an entry that is no such record, and return no changes."""
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
"""The output of the stage `events` of each source."""


def _readable_visits(source: str, position: Position, data: bytes) -> VisitEntry:
    """Decode a frame's entry. Log an entry that is no such record, and return no visits."""
    try:
        return read_visits(source, position, data)
    except (msgspec.MsgspecError, RecordTooNew) as error:
        log.warning("source %s: visits at %s cannot be read: %s", source, position, error)
        return VisitEntry(source, position, START)


def _readable_last_visits(source: str, position: Position, end: End) -> VisitEntry | None:
    try:
        return read_last_visits(source, position, end)
    except (msgspec.MsgspecError, RecordTooNew) as error:
        log.warning("source %s: visits at %s cannot be read: %s", source, position, error)
        return None


_CHANNELS: Final[Mapping[str, Channel[Any]]] = {
    keys.EVENTS: EPISODES,
    keys.VISITS: Channel(
        lambda source: keys.out(source, keys.VISITS), _readable_visits, last=_readable_last_visits
    ),
}
"""The streams that the database is made of, by stage."""


_Entry: Final = (EventEntry, VisitEntry)
_Entries = Sequence[tuple[bytes, Mapping[bytes, bytes]]]
"""Entries of a stream as redis-py returns them."""


class Projector:
    """A task that copies episodes and visits from the store into the database of the run.

    Lives in one event loop.
    """

    def __init__(
        self,
        url: str,
        file: Path,
        max_episodes: int,
        age_s: float,
        blurs_faces: bool = False,
        masked: Collection[str] = (),
    ) -> None:
        """url: of the store. The others: see Projection.keep and Projection.hide_pictures."""
        self._hides = blurs_faces, masked
        self._url = url
        self._file = file
        self._max_episodes = max_episodes
        self._age_s = age_s
        self._names: frozenset[str] = frozenset()
        self._others: frozenset[str] = frozenset()
        self._unread: frozenset[str] = frozenset()  # removed sources with entries that are left
        self._changed = asyncio.Event()
        self._failing = False
        self._unpinned: list[Pin] = []
        self._settled: frozenset[str] = frozenset()  # own sources whose last clips are pinned
        self._pinning = asyncio.Lock()

    def mask(self, masked: Collection[str]) -> None:
        """Remove the kept pictures of these sources, whose areas are hidden from now on."""
        blurs_faces, before = self._hides
        if set(masked) != set(before):
            self._hides = blurs_faces, masked
            self._changed.set()

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Replace the list of sources."""
        self._names = frozenset(source.name for source in sources)
        self._changed.set()

    def take_fleet(self, names: Collection[str]) -> None:
        """Replace the list of the sources of a fleet, of which the episodes are copied, too.

        Their visits are copied only by the slot that serves them. Their clips are pinned if this
        data folder has recordings of them, from the time before they moved.
        """
        self._others = frozenset(names)

    async def run(self) -> None:
        """Copy entries until cancelled, and then for LAST_S at most the entries that are left."""
        try:
            projection: Projection = await self._tried(Projection, self._file)
        except DatabaseRefused as error:
            log.error(
                "%s; no episodes are stored. Move the file away; a run makes a new one", error
            )
            return
        try:
            before = self._names
            hidden: tuple[bool, Collection[str]] | None = None
            while True:
                self._changed.clear()
                if hidden != self._hides:
                    hidden = self._hides
                    await self._tried(projection.hide_pictures, *hidden)
                names = self._names
                self._unread = (self._unread | before) - names
                before = names
                try:
                    await self._follow_until_changed(projection, names)
                except FramegateError as error:  # the store was replaced, for example
                    log.warning("episodes are not read: %s; trying again", error)
                    await asyncio.sleep(TRY_AGAIN_S)
        finally:
            last = asyncio.ensure_future(self._read_last(projection))
            await asyncio.wait({last}, timeout=LAST_S)
            await cancelled(last)
            if last.cancelled() or last.exception() is not None:
                log.warning("episodes: some entries were not read; a later run continues there")
            projection.close()

    async def _follow_until_changed(self, projection: Projection, names: frozenset[str]) -> None:
        """Copy the last entries of removed sources, then follow the others until a change."""
        tasks: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(self._changed.wait()),
            asyncio.ensure_future(self._follow_on(projection, names)),
            asyncio.ensure_future(self._tidy(projection, names)),
            asyncio.ensure_future(self._copy_others(projection, names)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancelled(*tasks)

    async def _follow_on(self, projection: Projection, names: Collection[str]) -> None:
        await self._follow_all(projection, self._unread, once=True)
        self._unread = frozenset()
        await self._follow_all(projection, names, once=False)

    async def _read_last(self, projection: Projection) -> None:
        await self._follow_all(projection, self._names | self._unread, once=True)
        await self._pin()
        await self._tried(projection.watch, await in_thread(watched, self._url, self._names))

    async def _follow_all(self, projection: Projection, names: Collection[str], once: bool) -> None:
        """Copy the sources' entries: those stored now (`once`), or until cancelled."""
        if once and names:  # one that the store has forgotten would end the reading of all
            names = await in_thread(known_sources, self._url) & frozenset(names)
        if not names:
            if not once:
                await asyncio.Event().wait()
            return
        tasks = [
            asyncio.ensure_future(self._follow(projection, stage, names, once))
            for stage in _CHANNELS
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancelled(*tasks)

    async def _follow(
        self,
        projection: Projection,
        stage: str,
        names: Collection[str],
        once: bool,
        is_own: bool = True,
    ) -> None:
        known = await self._tried(projection.positions, stage)
        start = {name: str(known[name]) for name in names if name in known}
        channel = _CHANNELS[stage]
        follower = Follower(
            sorted(names), start, until_end=False, channel=channel, once=once, block_ms=BLOCK_MS
        )
        patience_s = math.inf
        if once:
            patience_s = PATIENCE_S
        reader = Reader(self._url, follower, patience_s)
        async with Subscription[Any](reader) as subscription:
            while True:
                try:
                    entries = [await anext(subscription)]
                except StopAsyncIteration:
                    return
                except ResultsTrimmed:  # Projection.take reports the gap
                    continue
                except ConfigFaults:  # the store no longer knows a source
                    return
                while follower.ready:  # one transaction for all entries that have been read
                    entries.append(follower.ready.popleft())
                await self._take(
                    projection, [entry for entry in entries if isinstance(entry, _Entry)], is_own
                )

    async def _take(
        self, projection: Projection, entries: Sequence[EventEntry | VisitEntry], is_own: bool
    ) -> None:
        # Pin before the position is stored. After a kill in between the clips are pinned again,
        # which changes nothing.
        pins: list[Pin] = []
        for entry in entries:
            if isinstance(entry, EventEntry):
                pins += clip_pins(entry.changes.changes)
        if pins and not is_own:
            pins = await in_thread(recorded_clips, self._file.parent, pins)
        await self._pin(pins)
        for gap in await self._tried(projection.take, entries):
            log.warning("%s", gap)

    async def _copy_others(self, projection: Projection, own: Collection[str]) -> None:
        """Copy episodes of the fleet's other sources every OTHERS_S, and their times every TIDY_S.

        These reads do not block, so a slot costs the store the same for many sources as for few.
        """
        tidied_mono = -math.inf
        while True:
            names = self._others - set(own)
            try:
                if names:
                    names &= await in_thread(known_sources, self._url)
                if names:
                    await self._follow(projection, keys.EVENTS, names, once=True, is_own=False)
                if names and time.monotonic() - tidied_mono >= TIDY_S:
                    tidied_mono = time.monotonic()
                    times = await in_thread(watched, self._url, names)
                    await self._tried(projection.watch, times)
            except FramegateError as error:
                log.debug("episodes of other slots: %s", error)
            await asyncio.sleep(OTHERS_S)

    async def _pin(self, pins: Sequence[Pin] = ()) -> None:
        """Set these pins of clips, and those that the index refused before."""
        async with self._pinning:
            waiting = [*self._unpinned, *pins]
            refused = await in_thread(pin_clips, self._file.parent, waiting)
            self._unpinned = refused[-MAX_UNPINNED:]

    async def _pin_last(self, projection: Projection, names: frozenset[str]) -> None:
        """Pin the last clips of sources that became own ones.

        Their episodes may have been copied from another slot before this one had a file of them.
        """
        self._settled &= names
        fresh = names - self._settled
        if fresh:
            pins = await self._tried(projection.last_clips, fresh)
            if not pins or is_recorded(self._file.parent):  # else the first recording begins later
                self._settled = names
            await self._pin(pins)

    async def _tidy(self, projection: Projection, names: frozenset[str]) -> None:
        """Every TIDY_S, pin clips again, store the times of sources, and remove old rows."""
        while True:
            await self._pin()
            await self._pin_last(projection, names)
            try:
                times = await in_thread(watched, self._url, names)
            except FramegateError as error:
                log.debug("episodes: %s", error)
            else:
                await self._tried(projection.watch, times)
                await self._tried(projection.keep, self._max_episodes, self._age_s)
            await asyncio.sleep(TIDY_S)

    async def _tried(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Run a call in a thread. Repeat it every TRY_AGAIN_S while the disk fails."""
        while True:
            try:
                result = await in_thread(call, *arguments)
            except (sqlite3.Error, OSError) as error:
                level = logging.WARNING
                if self._failing:
                    level = logging.DEBUG
                self._failing = True
                log.log(level, "%s: %s; the output of rules stays in the store", self._file, error)
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                if self._failing:
                    log.info("%s: episodes are stored again", self._file)
                self._failing = False
                return result


def known_sources(url: str) -> frozenset[str]:
    """Return the names of all sources of a store. StoreLost, StoreBusy."""
    with store_errors(url), closing(connect(url)) as client:
        return frozenset(name.decode() for name in client.hkeys(keys.SOURCES))


def watched(url: str, names: Collection[str]) -> list[Watched]:
    """Return the times of the first and the last stored result of each source's newest epochs, with
    the reasons for which cameras were away after them.

    Of MAX_EPOCHS epochs, because a camera may have been lost several times since the last call.
    StoreLost, StoreBusy.
    """
    times: list[Watched] = []
    with store_errors(url), closing(connect(url)) as client:
        for name in names:
            times += _watched_epochs(client, name)
    return times


def _watched_epochs(client: Any, name: str) -> Iterator[Watched]:
    stream = keys.results(name)
    before = "+"
    for _ in range(MAX_EPOCHS):
        newest = client.xrevrange(stream, before, count=1)
        if not newest:
            return
        epoch = Position.parse(newest[0][0]).epoch
        before = f"({epoch}-0"
        first = client.xrange(stream, f"{epoch}-0", count=1)
        last = _last_frame(client, stream, epoch, newest)
        end = _end_in(newest)
        times = [
            records.decode_versioned(fields[b"d"], Result).captured
            for at, fields in [*first, *last]
            if fields[b"k"] == FRAME.encode() and Position.parse(at).epoch == epoch
        ]
        why = ""
        if end is not None:
            why = (end.fault or ENDED)[:MAX_WHY]
            began = _end_in(first)
            if not times and began is not None and began.since:
                times = [began.since]  # a camera that never came
        if times:
            yield Watched(name, epoch, min(times), max(times), why)


def _last_frame(client: Any, stream: str, epoch: int, entries: _Entries) -> _Entries:
    """Return the last frame of an epoch, or an end of it. entries: its newest entry

    An end is repeated while the camera is away, and states how many frames the epoch has. A worker
    that starts meanwhile does not know the number, and states that of all entries before.
    """
    for _ in range(MAX_ENDS):
        end = _end_in(entries)
        if end is None or not end.frames:
            break
        entries = client.xrevrange(stream, f"{epoch}-{end.frames - 1}", f"{epoch}-0", count=1)
    return entries


def _end_in(entries: _Entries) -> End | None:
    """Return the end among at most one entry."""
    for _, fields in entries:
        if fields[b"k"] != FRAME.encode():
            return records.decode_versioned(fields[b"d"], End)
    return None


def projected(url: str) -> Projection:
    """Return a database in memory with the content of a store's streams. StoreLost, StoreBusy."""
    projection = Projection(None)
    for channel in _CHANNELS.values():
        _project(url, channel, projection)
    return projection


def _project(url: str, channel: Channel[Any], projection: Projection) -> None:
    follower = Follower(None, "earliest", until_end=False, channel=channel, once=True)
    with Subscription[Any](Reader(url, follower, PATIENCE_S)) as subscription:
        while True:
            try:
                entries = [next(subscription)]
            except StopIteration:
                return
            except ResultsTrimmed:
                continue
            while follower.ready:
                entries.append(follower.ready.popleft())
            projection.take(entry for entry in entries if isinstance(entry, _Entry))
