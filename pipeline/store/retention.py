"""What is removed by age and size: results, certificates, and sources that no run has.

A published stream is cut as far as every reliable stage has read it; other readers get
ResultsTrimmed. Its newest entry stays, so that an ended source is seen to have ended.

Of the sources that no run has, those that were released last stay; of others everything is
forgotten, the name too. What is left is one number for all of them: the last epoch that any of them
had. A new source begins after it, so that no epoch comes twice, whatever positions a reader kept.
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
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.results import DECLARED
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import function, note_use
from framegate.pipeline.system.clocks import FirstSeen, HostClock, look, old_until, read_host_clock
from framegate.pipeline.system.process import in_thread

log = logging.getLogger(__name__)

EVERY_S = 60.0
PAGE = 1000
RESUMABLE_S = 7 * 86400
DROPPED = "removed"
SEEN = "seen"
NOTED_S = 3600.0
CERTIFICATES = "certificates"
_CERTIFICATE = re.compile(r"(.+)-([0-9]{1,18})(?:\.declared)?\.json")


@dataclass(frozen=True)
class RetentionLimits:
    """What is kept at most; 0 is no limit for the first two.

    age_s    seconds since a result was seen here first
    nbytes   of the store's memory for one published stream
    sources  that no run has, see to_forget
    """

    age_s: float = 0.0
    nbytes: int = 0
    sources: int = 64


@dataclass(frozen=True)
class Gone:
    """A source that no run has.

    freed    since when, UNIX seconds
    removed  whether it was removed; else its run ended, and may be resumed
    epoch    its last one
    """

    name: str
    freed: int
    removed: bool
    epoch: int


def cut(wanted: Sequence[Position], read: Sequence[Position], newest: Position) -> Position:
    """Return the first position that stays.

    wanted  first positions that one limit each would keep
    read    where reliable readers stand: nothing after that goes
    newest  the last entry's position, which stays
    """
    return min(max(wanted), newest, *(after(position) for position in read))


def after(position: Position) -> Position:
    """Return the first position that can follow."""
    return Position(position.epoch, position.seq + 1)


def to_forget(gone: Sequence[Gone], keep: int, now: float) -> list[Gone]:
    """Return all but the `keep` that were released last; one of a run that ended only after a week,
    as the run may be resumed.
    """
    newest_first = sorted(gone, key=lambda one: (one.freed, one.name), reverse=True)
    return [one for one in newest_first[keep:] if one.removed or one.freed < now - RESUMABLE_S]


class Retention:
    """Cuts the published streams of a run's sources and of removed ones; forgets old sources."""

    def __init__(
        self,
        url: str,
        run: str,
        readers: Sequence[str],
        limits: RetentionLimits,
        clock: Callable[[], HostClock] = read_host_clock,
    ) -> None:
        """readers: stages that read the published stream and are waited for. clock: reads the
        clocks of this host.
        """
        self._clock = clock
        self._url, self._run, self._readers, self._limits = url, run, readers, limits
        self._client = connect(url)

    def cut_all(self) -> dict[str, int]:
        """Cut each source's stream; return how many entries went, by source.

        A store without memory is cut as well: what is noted for later is written after the cuts,
        and without memory for that it is written by a later call.
        """
        now = self._clock().wall_s
        with store_errors(self._url):
            sources = sorted(name.decode() for name in self._client.hkeys(keys.SOURCES))
            gone, cuts = [], {}
            for source, own in zip(sources, self._owns(sources), strict=True):
                run, name, freed, epoch = own
                removed = not run and name == b""
                if run == self._run.encode() or removed:
                    cuts[source] = self._cut(source, self._readers if run else ())
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
        """Forget those whose last epoch was stored as past by an earlier call.

        So that no epoch comes again should the store lose its last second, or one of its servers.
        """
        if not gone:
            return
        past = int(self._client.get(keys.EPOCHS) or 0)
        latest = max(one.epoch for one in gone)
        if latest > past:
            self._client.fcall(function("raise"), 1, keys.EPOCHS, latest)
        known = {keys.tag(one.name): one for one in gone if one.epoch <= past}
        theirs: dict[bytes, list[bytes]] = {tag: [] for tag in known}
        for key in self._client.scan_iter(match="fg:{*", count=PAGE) if known else ():
            tag = key.partition(b"}")[0] + b"}"
            if tag in theirs:
                theirs[tag].append(key)
        for tag, one in known.items():
            own = keys.own(one.name)
            others = [key for key in theirs[tag] if key != own.encode()]
            self._client.fcall(function("forget"), 1 + len(others), own, *others, one.freed, past)
            self._client.hdel(keys.SOURCES, one.name)
            run, name = self._client.hmget(keys.own(one.name), "run", "name")
            if run:  # somebody took it in between
                self._client.hset(keys.SOURCES, one.name, name or "")

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
        first, last, *found = pipe.execute()
        if not first:
            return 0
        oldest, newest = Position.parse(first[0][0]), Position.parse(last[0][0])
        wanted = [oldest, self._by_size(stream, oldest)]
        now, age_s = self._clock(), self._limits.age_s
        seen = self._look(source, newest, now) if age_s else None
        if seen is not None:
            wanted.append(after(old_until(seen, now, age_s)))
        read = [Position.parse(p) if p else START for p, given_up in found if not given_up]
        stays = cut(wanted, read, newest)
        gone = int(self._client.xtrim(stream, minid=str(stays), approximate=False))
        if seen is not None:
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                self._client.hset(keys.own(source), "seen", records.encode(seen))
        return gone

    def _look(self, source: str, newest: Position, now: HostClock) -> FirstSeen:
        """Return since when this host has seen the results of a source: the times in results are
        those of a wall clock, which may step.
        """
        stored = self._client.hget(keys.own(source), "seen")
        before = None if stored is None else records.decode(stored, FirstSeen)
        return look(before, newest, now, self._limits.age_s)

    def _by_size(self, stream: str, oldest: Position) -> Position:
        nbytes, length = self._client.memory_usage(stream) or 0, self._client.xlen(stream)
        if not self._limits.nbytes or nbytes <= self._limits.nbytes:
            return oldest
        excess = math.ceil(length * (1 - self._limits.nbytes / nbytes))
        stays = oldest
        while excess > 0 and (page := self._page(stream, stays, min(excess, PAGE))):
            excess -= len(page)
            stays = after(Position.parse(page[-1][0]))
        return stays

    def _page(self, stream: str, position: Position, count: int) -> list[Any]:
        found: list[Any] = self._client.xrange(stream, min=str(position), count=count)
        return found


class Dropped(msgspec.Struct, frozen=True):
    """Certificates of a folder that were removed by age, and when the last of these was written."""

    certificates: int = 0
    last: float = 0.0


def dropped_of(folder: Path) -> Dropped:
    """Return what was removed from a folder of certificates."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / DROPPED).read_bytes(), type=Dropped)
    return Dropped()


def drop_certificates(folder: Path, age_s: float, now: HostClock) -> None:
    """Remove certificates that are older, with their declarations, and write down that it was done.

    Their age is the time that has passed since this function saw them first, which it notes in the
    folder: the times of files are those of a wall clock, which may step.

    age_s  0: none ever. now: what the clocks of this host show
    """
    if not age_s or not folder.is_dir():
        return
    written = _certificates(folder)
    seen = _seen_certificates(folder)
    looked, old = {}, []
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
    log.info("%d certificates in %s are older than %.0f s: removed", len(old), folder, age_s)


def _certificates(folder: Path) -> dict[str, dict[int, float]]:
    """Return when each certificate or its declaration was written last, by source and period."""
    written: dict[str, dict[int, float]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            found = _CERTIFICATE.fullmatch(entry.name)
            if found is not None:
                periods, period = written.setdefault(found[1], {}), int(found[2])
                periods[period] = max(periods.get(period, 0.0), entry.stat().st_mtime)
    return written


def _seen_certificates(folder: Path) -> dict[str, FirstSeen]:
    """Return what was noted of the certificates of each source."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / SEEN).read_bytes(), type=dict[str, FirstSeen])
    return {}


def _is_news(before: Mapping[str, FirstSeen], now: Mapping[str, FirstSeen]) -> bool:
    """Return whether it is worth a write: a note is new, or the time was stored long ago."""
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
    """Cut the streams of a run once a minute until cancelled, and call `tidy` as often."""
    publisher = next(stage.name for stage in stages if stage.publishes)
    readers = [stage.name for stage in stages if stage.input == publisher and stage.reliable]
    with closing(Retention(url, run, readers, limits)) as retention:
        while True:
            try:
                await in_thread(tidy)
                await in_thread(retention.cut_all)
            except (FramegateError, OSError) as error:  # a store that is away is looked at again
                log.debug("results are not cut now: %s", error)
            await asyncio.sleep(EVERY_S)
