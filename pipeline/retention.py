"""Old results go: published streams are cut by age and by size, on a slow timer.

What goes has been read by every stage that others wait for; other readers are told of a gap. A
stream's newest entry stays, so that an ended source is seen to have ended.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline import keys, records
from pipeline.apart import apart
from pipeline.errors import FramegateError
from pipeline.hop import FRAME
from pipeline.records import START, Position
from pipeline.spec import StageSpec
from pipeline.store_faults import store_errors
from pipeline.store_url import connect

log = logging.getLogger(__name__)

EVERY_S = 60.0
PAGE = 1000
_MOST_SEQ = 1 << 40


@dataclass(frozen=True)
class Limits:
    """What a source's published stream keeps at most; 0 is no limit.

    age_s   seconds since a result was published
    nbytes  of the store's memory
    """

    age_s: float = 0.0
    nbytes: int = 0


class _Published(msgspec.Struct):
    published: float


PublishedFrom = Callable[[Position], float | None]


def cut(wanted: Sequence[Position], read: Sequence[Position], newest: Position) -> Position:
    """The first position that stays: the latest that is wanted, as far as readers allow.

    read: where reliable readers stand; newest: the last entry's position.
    """
    return min(max(wanted), newest, *(after(position) for position in read))


def after(position: Position) -> Position:
    """The first position that can follow."""
    return Position(position.epoch, position.seq + 1)


def first_since(
    since: float, oldest: Position, newest: Position, published_from: PublishedFrom
) -> Position:
    """The first position from which on all was published at `since` or later. A binary search.

    published_from: when the first frame at or after a position was published, None if none is left
    """

    def is_young(position: Position) -> bool:
        published = published_from(position)
        return published is None or published >= since

    epochs = range(oldest.epoch, newest.epoch + 1)
    young = bisect_left(epochs, True, key=lambda epoch: is_young(Position(epoch, 0)))
    if young == 0:
        return oldest
    epoch = epochs[young - 1]
    seqs = range(_MOST_SEQ)
    return Position(epoch, bisect_left(seqs, True, key=lambda seq: is_young(Position(epoch, seq))))


class Retention:
    """Cuts the published streams of the sources that a run owns."""

    def __init__(self, url: str, run: str, readers: Sequence[str], limits: Limits) -> None:
        """readers: stages that read the published stream and are waited for."""
        self._url, self._run, self._readers, self._limits = url, run, readers, limits
        self._client = connect(url)

    def cut_all(self, now: float) -> dict[str, int]:
        """Cut each source's stream; how many entries went, by source. now: UNIX seconds."""
        with store_errors(self._url):
            sources = sorted(name.decode() for name in self._client.hkeys(keys.SOURCES))
            gone = {source: self._cut(source, now) for source in sources}
        return {source: count for source, count in gone.items() if count}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _cut(self, source: str, now: float) -> int:
        stream = keys.results(source)
        pipe = self._client.pipeline(transaction=False)
        pipe.hget(keys.own(source), "run")
        pipe.xrange(stream, count=1)
        pipe.xrevrange(stream, count=1)
        for reader in self._readers:
            pipe.hmget(keys.at(source, reader), "p", "gone")
        owner, first, last, *found = pipe.execute()
        if owner != self._run.encode() or not first:
            return 0
        oldest, newest = Position.parse(first[0][0]), Position.parse(last[0][0])
        wanted = [self._by_age(stream, oldest, newest, now), self._by_size(stream, oldest)]
        read = [Position.parse(p) if p else START for p, given_up in found if not given_up]
        stays = cut(wanted, read, newest)
        return int(self._client.xtrim(stream, minid=str(stays), approximate=False))

    def _by_age(self, stream: str, oldest: Position, newest: Position, now: float) -> Position:
        if not self._limits.age_s:
            return oldest

        def published_from(position: Position) -> float | None:
            for kind, data in self._entries(stream, position, count=4):
                if kind == FRAME.encode():
                    return records.decode(data, _Published).published
            return None

        return first_since(now - self._limits.age_s, oldest, newest, published_from)

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

    def _entries(self, stream: str, position: Position, count: int) -> Any:
        """Kind and data of all entries from a position on."""
        while page := self._page(stream, position, count):
            yield from ((fields[b"k"], fields[b"d"]) for _, fields in page)
            position = after(Position.parse(page[-1][0]))


async def keep_limits(url: str, run: str, stages: Sequence[StageSpec], limits: Limits) -> None:
    """Cut the streams of a run once a minute until cancelled, if there are limits."""
    if limits == Limits():
        return
    publisher = next(stage.name for stage in stages if stage.publishes)
    readers = [stage.name for stage in stages if stage.input == publisher and stage.reliable]
    with closing(Retention(url, run, readers, limits)) as retention:
        while True:
            try:
                await apart(retention.cut_all, time.time())
            except FramegateError as error:  # a store that is away is looked at again
                log.debug("results are not cut now: %s", error)
            await asyncio.sleep(EVERY_S)
