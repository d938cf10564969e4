"""Which questions go out together, and when: full batches under load, no delay without. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_WEIGHT = 0.2  # of the newest gap between arrivals


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch.

    most     questions, >= 1
    delay_s  for which the first of a batch may wait for others, >= 0
    """

    most: int = 1
    delay_s: float = 0.005


@dataclass(slots=True)
class _Queue(Generic[K]):
    """One source's, oldest first; served: when it was last given a place in a batch."""

    waiting: deque[tuple[float, K]] = field(default_factory=deque)
    served: int = 0


class Batching(Generic[K]):
    """Keys that wait, by source. Sources take turns, so one that floods delays itself only.

    Urgent keys go before others; those are taken where there is room left. Not thread-safe.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._urgent: dict[str, _Queue[K]] = {}
        self._others: dict[str, _Queue[K]] = {}
        self._turn = 0
        self._gap_s: float | None = None  # between arrivals, of late
        self._last_s: float | None = None

    def __len__(self) -> int:
        return sum(len(q.waiting) for side in (self._urgent, self._others) for q in side.values())

    def add(self, source: str, key: K, urgent: bool, now_s: float) -> None:
        """One more waits from now on."""
        if self._last_s is not None:
            gap_s = max(0.0, now_s - self._last_s)
            known = gap_s if self._gap_s is None else self._gap_s
            self._gap_s = known + _WEIGHT * (gap_s - known)
        self._last_s = now_s
        side = self._urgent if urgent else self._others
        side.setdefault(source, _Queue()).waiting.append((now_s, key))

    def __contains__(self, key: K) -> bool:
        sides = (self._urgent, self._others)
        return any(key == k for s in sides for q in s.values() for _, k in q.waiting)

    def discard(self, key: K) -> None:
        """It waits no more."""
        for side in (self._urgent, self._others):
            for queue in side.values():
                queue.waiting = deque(pair for pair in queue.waiting if pair[1] != key)

    def ready_at(self, now_s: float) -> float | None:
        """When the next batch goes out if nothing more comes; None where nothing waits.

        It does not wait for what, by the rate of late, would not come within the delay.
        """
        arrived = [
            q.waiting[0][0] for s in (self._urgent, self._others) for q in s.values() if q.waiting
        ]
        if not arrived:
            return None
        oldest_s, lacking = min(arrived), self.limits.most - len(self)
        bound_s = oldest_s + self.limits.delay_s
        if lacking <= 0 or self._gap_s is None or now_s + self._gap_s > bound_s:
            return oldest_s
        return min(bound_s, now_s + lacking * self._gap_s)

    def take(self, now_s: float, most: int | None = None) -> list[K]:
        """The batch that is to go out now; none if it is better to wait."""
        ready_s = self.ready_at(now_s)
        if ready_s is None or ready_s > now_s:
            return []
        most = self.limits.most if most is None else min(most, self.limits.most)
        batch: list[K] = []
        for side in (self._urgent, self._others):
            while len(batch) < most and (queue := _next_turn(side)) is not None:
                self._turn += 1
                queue.served = self._turn
                batch.append(queue.waiting.popleft()[1])
            for source in [source for source, queue in side.items() if not queue.waiting]:
                if self._turn - side[source].served > 1024:
                    del side[source]
        return batch


def _next_turn(side: dict[str, _Queue[K]]) -> _Queue[K] | None:
    """The queue that was served longest ago; of those never served, whose head is oldest."""
    waiting = [queue for queue in side.values() if queue.waiting]
    return min(waiting, key=lambda queue: (queue.served, queue.waiting[0][0]), default=None)
