"""Remove old results, certificates, and sources that no run owns.

A published stream is cut up to the position that every reliable stage has read; other readers get
ResultsTrimmed. Its newest entry stays, so that readers see the end of an ended source.

Of the sources that no run owns, the last released stay. Everything about the others is deleted,
including the name. One number remains for all of them: the last epoch that any of them had. A new
source begins after it, so that no epoch of a source repeats for any position that a reader saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import DECLARED
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.store.hop import function, note_use
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.clocks import FirstSeen, HostClock, look, old_until, read_host_clock
from framegate.pipeline.system.process import in_thread

log = logging.getLogger(__name__)

EVERY_S = 60.0
PAGE = 1000  # entries or keys of one reply
RESUMABLE_S = 7 * 86400  # for which the source of an ended run stays
DROPPED = "removed"  # file in a folder of certificates: a Dropped
SEEN = "seen"  # file in a folder of certificates: a FirstSeen of each source
NOTED_S = 3600.0  # between two writes of SEEN that only advance the clock
CERTIFICATES = "certificates"
_CERTIFICATE = re.compile(r"(.+)-([0-9]{1,18})(?:\.declared)?\.json")


@dataclass(frozen=True)
class RetentionLimits:
    """The limits of retention. 0 is no limit for the first two.

    age_s    seconds since this host first saw a result
    nbytes   bytes of the store's memory for one published stream
    sources  number of sources that no run owns, see to_forget
    """

    age_s: float = 0.0
    nbytes: int = 0
    sources: int = 64


@dataclass(frozen=True)
class Gone:
    """A source that no run owns.

    freed    time of its release, UNIX seconds
    removed  the user removed it; otherwise its run ended and may be resumed
    epoch    its last epoch
    """

    name: str
    freed: int
    removed: bool
    epoch: int


def cut(wanted: Sequence[Position], read: Sequence[Position], newest: Position) -> Position:
    """Return the first position of a stream that stays.

    wanted  the first position to keep for each limit
    read    positions of the reliable readers; entries after them stay
    newest  position of the last entry, which stays
    """
    return min(max(wanted), newest, *(position.following for position in read))


def to_forget(gone: Sequence[Gone], keep: int, now: float) -> list[Gone]:
    """Return the sources to forget: all but the `keep` that were released last.

    The source of an ended run stays for RESUMABLE_S, because the run may be resumed.
    """
    newest_first = sorted(gone, key=lambda each: (each.freed, each.name), reverse=True)
    oldest_resumable = now - RESUMABLE_S
    return [each for each in newest_first[keep:] if each.removed or each.freed < oldest_resumable]


class Retention:
    """Cuts the published streams of a run's sources and of removed sources; forgets old sources."""

    def __init__(
        self,
        url: str,
        run: str,
        readers: Sequence[str],
        limits: RetentionLimits,
        clock: Callable[[], HostClock] = read_host_clock,
    ) -> None:
        """Connect to the store.

        readers  the reliable stages that read the published stream
        clock    reads the clocks of this host
        """
        self._clock = clock
        self._url = url
        self._run = run
        self._readers = readers
        self._limits = limits
        self._client = connect(url)

    def cut_all(self) -> dict[str, int]:
        """Cut the stream of each source; return the number of removed entries by source.

        This works in a store that is out of memory: notes for later are written after the cuts, and
        if there is no memory for them, a later call writes them.
        """
        now = self._clock().wall_s
        with store_errors(self._url):
            sources = sorted(name.decode() for name in self._client.hkeys(keys.SOURCES))
            gone = []
            cuts = {}
            for source, own in zip(sources, self._owns(sources), strict=True):
                run, name, freed, epoch = own
                removed = not run and name == b""
                if run == self._run.encode():
                    cuts[source] = self._cut(source, self._readers)
                elif removed:
                    cuts[source] = self._cut(source, ())
                if not run and freed is not None:
                    gone.append(Gone(source, int(freed), removed, int(epoch or 0)))
            self._forget(to_forget(gone, self._limits.sources, now))
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                note_use(self._client)
        return {source: count for source, count in cuts.items() if count}

    def _owns(self, sources: Sequence[str]) -> list[list[bytes | None]]:
        pipe = self._client.pipeline(transaction=False)
        for source in sources:
            pipe.hmget(keys.own(source), "run", "name", "freed", "epoch")
        owns: list[list[bytes | None]] = pipe.execute()
        return owns

    def _forget(self, gone: Sequence[Gone]) -> None:
        """Delete the sources whose last epoch an earlier call has stored in EPOCHS.

        The delay of one call keeps epochs from repeating if the store loses its last second of
        writes, or a server of a cluster loses its data.
        """
        if not gone:
            return
        past = int(self._client.get(keys.EPOCHS) or 0)
        latest = max(source.epoch for source in gone)
        if latest > past:
            self._client.fcall(function("raise"), 1, keys.EPOCHS, latest)
        sources = {keys.tag(source.name): source for source in gone if source.epoch <= past}
        if not sources:
            return
        keys_of: dict[bytes, list[bytes]] = {tag: [] for tag in sources}
        for key in self._client.scan_iter(match="fg:{*", count=PAGE):
            tag = key.partition(b"}")[0] + b"}"
            if tag in keys_of:
                keys_of[tag].append(key)
        for tag, source in sources.items():
            own = keys.own(source.name)
            names = [own, *(key for key in keys_of[tag] if key != own.encode())]
            self._client.fcall(function("forget"), len(names), *names, source.freed, past)
            self._client.hdel(keys.SOURCES, source.name)
            run, name = self._client.hmget(own, "run", "name")
            if run:  # a run has claimed it meanwhile
                self._client.hset(keys.SOURCES, source.name, name or "")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _cut(self, source: str, readers: Sequence[str]) -> int:
        stream = keys.results(source)
        pipe = self._client.pipeline(transaction=False)
        pipe.xrange(stream, count=1)
        pipe.xrevrange(stream, count=1)
        for reader in readers:
            pipe.hmget(keys.at(source, reader), "p", "gone")
        first, last, *standings = pipe.execute()
        if not first:
            return 0
        oldest = Position.parse(first[0][0])
        newest = Position.parse(last[0][0])
        wanted = [oldest, self._by_size(stream, oldest)]
        now = self._clock()
        age_s = self._limits.age_s
        seen = None
        if age_s:
            seen = self._look(source, newest, now)
            wanted.append(old_until(seen, now, age_s).following)
        read = [
            Position.parse(position or b"0-0") for position, is_gone in standings if not is_gone
        ]
        stays = cut(wanted, read, newest)
        gone = int(self._client.xtrim(stream, minid=str(stays), approximate=False))
        if seen is not None:
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                self._client.hset(keys.own(source), "seen", records.encode(seen))
        return gone

    def _look(self, source: str, newest: Position, now: HostClock) -> FirstSeen:
        """Return the times since which this host has seen the results of a source.

        The times in the results cannot be used: they are of a wall clock, which may step.
        """
        stored = self._client.hget(keys.own(source), "seen")
        before = None
        if stored is not None:
            before = records.decode(stored, FirstSeen)
        return look(before, newest, now, self._limits.age_s)

    def _by_size(self, stream: str, oldest: Position) -> Position:
        """Return the first position to keep for the limit of bytes, if all entries are equal."""
        if not self._limits.nbytes:
            return oldest
        nbytes = self._client.memory_usage(stream) or 0
        length = self._client.xlen(stream)
        if nbytes <= self._limits.nbytes:
            return oldest
        excess = math.ceil(length * (1 - self._limits.nbytes / nbytes))
        stays = oldest
        while excess > 0:
            page: list[Any] = self._client.xrange(stream, min=str(stays), count=min(excess, PAGE))
            if not page:
                break
            excess -= len(page)
            stays = Position.parse(page[-1][0]).following
        return stays


class Dropped(msgspec.Struct, frozen=True):
    """The number of certificates that were removed from a folder, and the last one's write time."""

    certificates: int = 0
    last: float = 0.0


def dropped_of(folder: Path) -> Dropped:
    """Return the record of certificates that were removed from a folder."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / DROPPED).read_bytes(), type=Dropped)
    return Dropped()


def drop_certificates(folder: Path, age_s: float, now: HostClock) -> None:
    """Remove old certificates with their declarations, and record their number in the folder.

    The age of a certificate is the time since this function first saw it, which it notes in the
    folder. The times of files cannot be used: they are of a wall clock, which may step.

    age_s  maximum age in seconds; 0: remove none
    now    the clocks of this host
    """
    if not age_s or not folder.is_dir():
        return
    written = _certificates(folder)
    seen = _seen_certificates(folder)
    looked = {}
    old = []
    for source, periods in written.items():
        newest = Position(1, max(periods))
        looked[source] = look(seen.get(source), newest, now, age_s)
        until = old_until(looked[source], now, age_s)
        old += [(source, period) for period in periods if Position(1, period) <= until]
    if _is_news(seen, looked):
        _replace(folder / SEEN, looked)
    if not old:
        return
    before = dropped_of(folder)
    last = max(written[source][period] for source, period in old)
    _replace(folder / DROPPED, Dropped(before.certificates + len(old), max(before.last, last)))
    for source, period in old:
        for ending in (DECLARED, ".json"):
            (folder / f"{source}-{period}{ending}").unlink(missing_ok=True)
    log.info("removed %d certificates older than %.0f s from %s", len(old), age_s, folder)


def _certificates(folder: Path) -> dict[str, dict[int, float]]:
    """Return the last write times of certificates and declarations, by source and period."""
    written: dict[str, dict[int, float]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _CERTIFICATE.fullmatch(entry.name)
            if match is not None:
                periods = written.setdefault(match[1], {})
                period = int(match[2])
                periods[period] = max(periods.get(period, 0.0), entry.stat().st_mtime)
    return written


def _seen_certificates(folder: Path) -> dict[str, FirstSeen]:
    """Return the notes about the certificates of each source."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / SEEN).read_bytes(), type=dict[str, FirstSeen])
    return {}


def _is_news(before: Mapping[str, FirstSeen], now: Mapping[str, FirstSeen]) -> bool:
    """Return whether to write the notes: one is new, or they are older than NOTED_S."""
    if before.keys() != now.keys():
        return True
    return any(
        seen.notes != before[source].notes
        or seen.time.kept_s - before[source].time.kept_s >= NOTED_S
        or seen.time.host.boot != before[source].time.host.boot
        for source, seen in now.items()
    )


def _replace(file: Path, content: object) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(msgspec.json.encode(content))
    new.replace(file)


async def keep_limits(
    url: str,
    run: str,
    stages: Sequence[StageSpec],
    limits: RetentionLimits,
    tidy: Callable[[], None],
) -> None:
    """Cut the streams of a run every minute until cancelled, and call `tidy` each time."""
    publisher = next(stage.name for stage in stages if stage.publishes)
    readers = [stage.name for stage in stages if stage.input == publisher and stage.reliable]
    with closing(Retention(url, run, readers, limits)) as retention:
        while True:
            # Each on its own: a full disk stops `tidy`, and the store may be on another host.
            for work in (retention.cut_all, tidy):
                try:
                    await in_thread(work)
                except (FramegateError, OSError) as error:  # the next minute tries again
                    log.debug("limits are not kept now: %s", error)
            await asyncio.sleep(EVERY_S)
