"""What waits for a stage, by source; batches are taken by turns. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from heapq import heapify, heappop, heapreplace

import msgspec

from framegate.pipeline.contracts.records import START, End, Position, Record


class Arrival(msgspec.Struct, frozen=True):
    """An entry that waits for a stage: a frame's record, or the end of an epoch.

    data  the record's bytes, where they are known: a stage with nothing to add hands them on
    """

    position: Position
    record: Record | End
    data: bytes | None = None


Batch = dict[str, list[Arrival]]


class Inbox:
    """The queues of one stage, one for each source of which something waits: others cost nothing.

    Where more waits than a batch takes, sources take turns: one that floods delays itself.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Arrival]] = {}
        self._turn = 0
        self._served: dict[str, int] = {}  # the turn in which a source came last

    def add(self, source: str, arrivals: Iterable[Arrival]) -> None:
        """Append what came, in order of position."""
        came = deque(arrivals)
        if source in self._waiting:
            self._waiting[source].extend(came)
        elif came:
            self._waiting[source] = came

    def give_back(self, source: str, arrivals: list[Arrival]) -> None:
        """Put back what was taken and not done; it comes first again."""
        if arrivals:
            self._waiting.setdefault(source, deque()).extendleft(reversed(arrivals))

    def clear(self, source: str) -> None:
        """Forget what waits from a source: the store says anew what does."""
        self._waiting.pop(source, None)
        self._served.pop(source, None)

    def waiting(self) -> list[str]:
        """Sources of which something waits."""
        return list(self._waiting)

    def count(self, source: str) -> int:
        """How much waits from a source."""
        return len(self._waiting.get(source, ()))

    def take(
        self, most: int, careful_until: Mapping[str, Position], resting: Collection[str] = ()
    ) -> Batch:
        """Take up to `most` entries over all sources, of each in order.

        First comes the source that was served longest ago, among equals the earliest arrival. A
        source's part stops after an end. An entry of a careful source comes alone. Resting sources
        are passed over.
        """
        if not careful_until and not resting and sum(map(len, self._waiting.values())) <= most:
            return self._take_all()
        batch: Batch = {}
        rest = set(resting)
        heads = [(*self._rank(s, q[0]), s) for s, q in self._waiting.items() if s not in rest]
        heapify(heads)
        for _ in range(most):
            if not heads:
                break
            source = heads[0][-1]
            queue = self._waiting[source]
            careful = queue[0].position <= careful_until.get(source, START)
            if careful and batch:
                break
            arrival = queue.popleft()
            batch.setdefault(source, []).append(arrival)
            self._turn += 1
            self._served[source] = self._turn
            if not queue:
                del self._waiting[source]
            if queue and not isinstance(arrival.record, End):
                heapreplace(heads, (*self._rank(source, queue[0]), source))
            else:
                heappop(heads)
            if careful:
                break
        return batch

    def _rank(self, source: str, head: Arrival) -> tuple[int, float]:
        return self._served.get(source, 0), _arrived(head)

    def _take_all(self) -> Batch:
        """Take all that waits, where the limit allows it: the usual case, and cheaper."""
        batch: Batch = {}
        for source, queue in list(self._waiting.items()):
            taken = batch[source] = []
            while queue:
                taken.append(queue.popleft())
                if isinstance(taken[-1].record, End):
                    break
            if not queue:
                del self._waiting[source]
        return batch


def _arrived(arrival: Arrival) -> float:
    return arrival.record.arrived if isinstance(arrival.record, Record) else 0.0
