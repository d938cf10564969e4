"""Which queries go out together, and when: full batches under load, no delay without. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

_WEIGHT = 0.2  # of the newest gap between arrivals
_SHARE = 8  # one place in so many is for what is not urgent, however much is
_REMEMBERED = 1024  # turns for which a source that has nothing waiting keeps its place


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch.

    most     queries, >= 1
    delay_s  seconds for which the first of a batch may wait for others, >= 0
    """

    most: int = 1
    delay_s: float = 0.005


class KeptBack(NamedTuple):
    """Who is not served now: urgent keys of these sources; others: all keys that are not urgent."""

    sources: Collection[str] = ()
    others: bool = False


NOBODY = KeptBack()


@dataclass(slots=True)
class _Queue(Generic[K]):
    """One source's keys, oldest first; served: the turn of its last place in a batch."""

    waiting: deque[K] = field(default_factory=deque)
    served: int = 0


class Batching(Generic[K]):
    """Keys that wait, by source. Sources take turns, so one that floods delays itself only.

    Urgent keys go before others, which have one place in eight and what room is left. Of a source
    that has n keys waiting, no other source gets more than n places before the last of them goes.
    Keys are unique among those that wait. Not thread-safe.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._urgent: dict[str, _Queue[K]] = {}
        self._others: dict[str, _Queue[K]] = {}
        self._arrived: dict[K, tuple[float, _Queue[K]]] = {}
        self._turn = 0
        self._gap_s: float | None = None  # between arrivals, of late
        self._last_s: float | None = None

    def __len__(self) -> int:
        return len(self._arrived)

    def __contains__(self, key: K) -> bool:
        return key in self._arrived

    def add(self, source: str, key: K, urgent: bool, now_s: float) -> None:
        """Let one more wait from now on."""
        if self._last_s is not None:
            gap_s = max(0.0, now_s - self._last_s)
            known = gap_s if self._gap_s is None else self._gap_s
            self._gap_s = known + _WEIGHT * (gap_s - known)
        self._last_s = now_s
        queue = self._queue(source, urgent)
        queue.waiting.append(key)
        self._arrived[key] = now_s, queue

    def put_back(self, source: str, key: K, urgent: bool, arrived_s: float) -> None:
        """Let a key that was taken wait again, before all others of its source."""
        queue = self._queue(source, urgent)
        queue.waiting.appendleft(key)
        self._arrived[key] = arrived_s, queue

    def discard(self, key: K) -> None:
        """Remove a key, if it waits."""
        if key in self._arrived:
            _, queue = self._arrived.pop(key)
            queue.waiting.remove(key)

    def ready_at(self, without: KeptBack = NOBODY) -> float | None:
        """Return when the next batch goes out if nothing more comes; None where nothing waits.

        At once where, by the last gaps between arrivals, nothing more would come within the delay.
        No later than two gaps after the last arrival: by then those gaps say nothing any more.
        """
        heads = [queue.waiting[0] for side in self._sides(without) for queue in side]
        if not heads:
            return None
        oldest_s = min(self._arrived[head][0] for head in heads)
        full = len(self._arrived) >= self.limits.most
        if full or self._gap_s is None or self._last_s is None:
            return oldest_s
        bound_s = oldest_s + self.limits.delay_s
        if self._last_s + self._gap_s > bound_s:
            return oldest_s
        return min(bound_s, self._last_s + 2 * self._gap_s)

    def take(self, now_s: float, most: int | None = None, without: KeptBack = NOBODY) -> list[K]:
        """Return the batch that is to go out now; empty if it is better to wait."""
        ready_s = self.ready_at(without)
        if ready_s is None or ready_s > now_s:
            return []
        most = self.limits.most if most is None else min(most, self.limits.most)
        batch: list[K] = []
        while len(batch) < most:
            sides = self._sides(without)
            if (self._turn + 1) % _SHARE == 0:
                sides.reverse()
            side = next((side for side in sides if side), None)
            if side is None:
                break
            # Served longest ago; of those never served, the one that is known longest.
            queue = min(side, key=lambda queue: queue.served)
            self._turn += 1
            queue.served = self._turn
            batch.append(queue.waiting.popleft())
            del self._arrived[batch[-1]]
        self._urgent, self._others = self._remembered(self._urgent), self._remembered(self._others)
        return batch

    def _sides(self, without: KeptBack) -> list[list[_Queue[K]]]:
        """Return the queues in which something waits: urgent ones, and others."""
        urgent = [q for s, q in self._urgent.items() if q.waiting and s not in without.sources]
        others = [q for q in self._others.values() if q.waiting and not without.others]
        return [urgent, others]

    def _queue(self, source: str, urgent: bool) -> _Queue[K]:
        return (self._urgent if urgent else self._others).setdefault(source, _Queue())

    def _remembered(self, side: dict[str, _Queue[K]]) -> dict[str, _Queue[K]]:
        since = self._turn - _REMEMBERED
        return {s: queue for s, queue in side.items() if queue.waiting or queue.served > since}
