"""What waits for a stage, by source; batches are taken earliest arrival first. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

import msgspec

from pipeline.records import START, End, Position, Record


class Arrival(msgspec.Struct, frozen=True):
    """An entry that waits for a stage: a frame's record, or the end of an epoch.

    data  the record's bytes, where they are known: a stage with nothing to add hands them on
    """

    position: Position
    record: Record | End
    data: bytes | None = None


Batch = dict[str, list[Arrival]]


class Inbox:
    """Queues of one stage, one a source."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Arrival]] = {}

    def add(self, source: str, arrivals: Iterable[Arrival]) -> None:
        """Append what came, in order of position."""
        self._waiting.setdefault(source, deque()).extend(arrivals)

    def give_back(self, source: str, arrivals: list[Arrival]) -> None:
        """Put back what was taken and not done; it comes first again."""
        self._waiting.setdefault(source, deque()).extendleft(reversed(arrivals))

    def clear(self, source: str) -> None:
        """Forget a source: the store says anew what waits."""
        self._waiting.pop(source, None)

    def waiting(self) -> list[str]:
        """Sources of which something waits."""
        return [source for source, queue in self._waiting.items() if queue]

    def count(self, source: str) -> int:
        """How much waits from a source."""
        return len(self._waiting.get(source, ()))

    def take(
        self, most: int, careful_until: Mapping[str, Position], resting: Collection[str] = ()
    ) -> Batch:
        """Up to `most` entries over all sources, earliest arrival first, ends as they come.

        A source's part stops after an end. An entry of a careful source comes alone. Resting
        sources are passed over.
        """
        if not careful_until and not resting and sum(map(len, self._waiting.values())) <= most:
            return self._take_all()
        batch: Batch = {}
        closed = set(resting)
        for _ in range(most):
            source = self._earliest(closed)
            if source is None:
                break
            careful = self._waiting[source][0].position <= careful_until.get(source, START)
            if careful and batch:
                break
            arrival = self._waiting[source].popleft()
            batch.setdefault(source, []).append(arrival)
            if isinstance(arrival.record, End):
                closed.add(source)
            if careful:
                break
        return batch

    def _take_all(self) -> Batch:
        """All that waits, where the limit allows it: the usual case, without looking for heads."""
        batch: Batch = {}
        for source, queue in self._waiting.items():
            taken: list[Arrival] = []
            while queue:
                taken.append(queue.popleft())
                if isinstance(taken[-1].record, End):
                    break
            if taken:
                batch[source] = taken
        return batch

    def _earliest(self, closed: set[str]) -> str | None:
        heads = (
            (_arrived(queue[0]), source)
            for source, queue in self._waiting.items()
            if queue and source not in closed
        )
        return min(heads, default=(0.0, None))[1]


def _arrived(arrival: Arrival) -> float:
    return arrival.record.arrived if isinstance(arrival.record, Record) else 0.0
