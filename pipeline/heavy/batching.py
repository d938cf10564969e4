"""Form batches of queries: full batches under load, no delay otherwise. Pure.

`engine/inbox` forms the batches of frames of a stage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

_WEIGHT = 0.2  # of the newest gap, in the moving average of gaps between arrivals
_SHARE = 8  # every eighth place is for keys that are not urgent, so that they never starve
_REMEMBERED = 1024  # turns for which a source without waiting keys keeps its place in the order


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batch.

    most     largest number of queries, >= 1
    delay_s  seconds for which the first query may wait for others, >= 0
    """

    most: int = 1
    delay_s: float = 0.005


class KeptBack(NamedTuple):
    """The keys that no batch may take now.

    sources  sources whose urgent keys are kept back
    others   all keys that are not urgent are kept back
    """

    sources: Collection[str] = ()
    others: bool = False


NOTHING = KeptBack()


@dataclass(slots=True)
class _Queue(Generic[K]):
    """The waiting keys of a source, oldest first; served: turn of its last place in a batch."""

    waiting: deque[K] = field(default_factory=deque)
    served: int = 0


class Batching(Generic[K]):
    """Waiting keys by source. Sources take turns, so a source that floods delays only itself.

    Urgent keys go before others, which get every eighth place and the room that is left. While a
    source has n keys waiting, no other source gets more than n places before the last of these.
    Waiting keys are unique. Not thread-safe.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._urgent: dict[str, _Queue[K]] = {}
        self._others: dict[str, _Queue[K]] = {}
        self._arrived: dict[K, tuple[float, _Queue[K]]] = {}
        self._turn = 0
        self._gap_s: float | None = None  # moving average of the gaps between arrivals
        self._last_s: float | None = None  # last arrival

    def __len__(self) -> int:
        return len(self._arrived)

    def __contains__(self, key: K) -> bool:
        return key in self._arrived

    def add(self, source: str, key: K, urgent: bool, now_s: float) -> None:
        """Add a key that waits from now on."""
        if self._last_s is not None:
            gap_s = max(0.0, now_s - self._last_s)
            if self._gap_s is None:
                self._gap_s = gap_s
            self._gap_s += _WEIGHT * (gap_s - self._gap_s)
        self._last_s = now_s
        queue = self._queue(source, urgent)
        queue.waiting.append(key)
        self._arrived[key] = now_s, queue

    def put_back(self, source: str, key: K, urgent: bool, arrived_s: float) -> None:
        """Add a key that was taken before, ahead of all keys of its source."""
        queue = self._queue(source, urgent)
        queue.waiting.appendleft(key)
        self._arrived[key] = arrived_s, queue

    def discard(self, key: K) -> None:
        """Remove a key, if it waits."""
        if key in self._arrived:
            _, queue = self._arrived.pop(key)
            queue.waiting.remove(key)

    def ready_at(self, without: KeptBack = NOTHING) -> float | None:
        """Return the time at which the next batch is ready if no key is added; None: no key waits.

        If the next arrival is not expected within the delay, the batch is ready at once. Otherwise
        it is ready two average gaps after the last arrival at the latest.
        """
        urgent, others = self._sides(without)
        if not urgent and not others:
            return None
        oldest_s = min(self._arrived[queue.waiting[0]][0] for queue in urgent + others)
        is_full = len(self._arrived) >= self.limits.most
        if is_full or self._gap_s is None or self._last_s is None:
            return oldest_s
        bound_s = oldest_s + self.limits.delay_s
        if self._last_s + self._gap_s > bound_s:
            return oldest_s
        return min(bound_s, self._last_s + 2 * self._gap_s)

    def take(self, now_s: float, most: int | None = None, without: KeptBack = NOTHING) -> list[K]:
        """Remove and return the next batch; empty if it is not ready.

        most  a lower limit than that of the limits
        """
        ready_s = self.ready_at(without)
        if ready_s is None or ready_s > now_s:
            return []
        size = self.limits.most
        if most is not None:
            size = min(size, most)
        batch: list[K] = []
        while len(batch) < size:
            urgent, others = self._sides(without)
            side = urgent or others
            if (self._turn + 1) % _SHARE == 0:
                side = others or urgent
            if not side:
                break
            # The source that was served longest ago; among new sources, the first that came.
            queue = min(side, key=lambda queue: queue.served)
            self._turn += 1
            queue.served = self._turn
            batch.append(queue.waiting.popleft())
            del self._arrived[batch[-1]]
        self._urgent = self._remembered(self._urgent)
        self._others = self._remembered(self._others)
        return batch

    def _sides(self, without: KeptBack) -> tuple[list[_Queue[K]], list[_Queue[K]]]:
        """Return the queues with keys that may be taken: urgent ones, and others."""
        urgent = [q for s, q in self._urgent.items() if q.waiting and s not in without.sources]
        others = [q for q in self._others.values() if q.waiting and not without.others]
        return urgent, others

    def _queue(self, source: str, urgent: bool) -> _Queue[K]:
        side = self._others
        if urgent:
            side = self._urgent
        return side.setdefault(source, _Queue())

    def _remembered(self, side: dict[str, _Queue[K]]) -> dict[str, _Queue[K]]:
        since = self._turn - _REMEMBERED
        return {s: queue for s, queue in side.items() if queue.waiting or queue.served > since}
