"""The entries that wait for a stage: the next batch, and the frames that cannot be done now.

An inbox has no limit of its own. It contains the frames that a decoder may put ahead of its readers
(`ingest/credit`), or those of a read that began with fewer than PLENTY entries (`stage_loop`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace

import msgspec

from framegate.pipeline.contracts.records import START, End, Position, Record
from framegate.pipeline.contracts.stage import AskPort

REST_S = 0.05  # between two looks for pixels
# A frame that was not decoded counts as a part of one: no stage compares its pixels or looks at it.
# It does count, because a file that is decoded lazily has thousands of them ready, and the other
# sources of the process wait for the batch. With 8, a batch takes a group of 5 s at 25 per second.
UNDECODED_PER_FRAME = 16
ASK_AGAIN_S = 5.0  # a stage that awaits an answer is run this often, which shows that it is alive


class Arrival(msgspec.Struct, frozen=True):
    """An entry that waits for a stage: a frame's record, or the end of an epoch.

    data  the record's bytes if they are known; a stage that adds nothing passes them on
    """

    position: Position
    record: Record | End
    data: bytes | None = None


Batch = dict[str, list[Arrival]]


class Inbox:
    """The queues of one stage by source. A source without entries has no queue and costs nothing.

    If more entries wait than a batch takes, sources take turns, so that a source with many frames
    delays only itself.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Arrival]] = {}
        self._turn = 0
        self._served: dict[str, int] = {}  # the last turn of each source

    def add(self, source: str, arrivals: Iterable[Arrival]) -> None:
        """Append entries, in the order of their positions."""
        new = deque(arrivals)
        if source in self._waiting:
            self._waiting[source].extend(new)
        elif new:
            self._waiting[source] = new

    def give_back(self, source: str, arrivals: list[Arrival]) -> None:
        """Put entries that were taken and not done back to the front."""
        if arrivals:
            self._waiting.setdefault(source, deque()).extendleft(reversed(arrivals))

    def clear(self, source: str) -> None:
        """Drop all entries of a source; they are read from the store again."""
        self._waiting.pop(source, None)
        self._served.pop(source, None)

    def waiting(self) -> list[str]:
        """Return the sources with entries."""
        return list(self._waiting)

    def count(self, source: str) -> int:
        """Return the number of entries of a source."""
        return len(self._waiting.get(source, ()))

    def take(
        self, max_: int, careful_until: Mapping[str, Position], resting: Collection[str] = ()
    ) -> Batch:
        """Take up to `max_` entries over all sources, those of each source in order. Frames that
        were not decoded count as parts of one.

        The source that was served longest ago comes first, among equals the earliest arrival. The
        part of a source stops after an end. An entry of a careful source is a batch of its own.
        Resting sources are skipped.
        """
        if not careful_until and not resting:
            n_entries = sum(map(len, self._waiting.values()))
            if n_entries <= max_ or self._count_parts() <= max_ * UNDECODED_PER_FRAME:
                return self._take_all()
        batch: Batch = {}
        rest = set(resting)
        heads = []
        for source, queue in self._waiting.items():
            if source not in rest:
                heads.append((*self._rank(source, queue[0]), source))
        heapify(heads)
        # `heads` is a heap with one item for each source that may give another entry; the item
        # ranks the first entry of its queue.
        left = max_ * UNDECODED_PER_FRAME
        while heads and left > 0:
            source = heads[0][-1]
            queue = self._waiting[source]
            is_careful = queue[0].position <= careful_until.get(source, START)
            if is_careful and batch:
                break
            arrival = queue.popleft()
            batch.setdefault(source, []).append(arrival)
            left -= _parts_of(arrival)
            self._turn += 1
            self._served[source] = self._turn
            if not queue:
                del self._waiting[source]
            if queue and not isinstance(arrival.record, End):
                heapreplace(heads, (*self._rank(source, queue[0]), source))
            else:
                heappop(heads)
            if is_careful:
                break
        return batch

    def _count_parts(self) -> int:
        """Return the number of entries that wait, in parts of one."""
        return sum(sum(map(_parts_of, queue)) for queue in self._waiting.values())

    def _rank(self, source: str, head: Arrival) -> tuple[int, float]:
        arrived = 0.0
        if isinstance(head.record, Record):
            arrived = head.record.arrived
        return self._served.get(source, 0), arrived

    def _take_all(self) -> Batch:
        """Take all entries. This is the usual case and cheaper than taking turns."""
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


def _parts_of(arrival: Arrival) -> int:
    if isinstance(arrival.record, Record) and arrival.record.undecoded:
        return 1
    return UNDECODED_PER_FRAME


class HeldBack:
    """The (source, stage) pairs that wait, with the time of the next try. One thread.

    Times are monotonic seconds. A pair waits for pixels or for answers, never for both.
    """

    def __init__(self, asks: Iterable[AskPort]) -> None:
        """asks: where the stages of the worker ask other models."""
        self._asks = {port.fileno(): port for port in asks}
        self._lacking: dict[tuple[str, str], float] = {}  # waits for pixels
        self._awaiting: dict[tuple[str, str], float] = {}  # waits for answers

    def __bool__(self) -> bool:
        return bool(self._lacking or self._awaiting)

    def __contains__(self, at: tuple[str, str]) -> bool:
        return at in self._lacking or at in self._awaiting

    def note(self, source: str, stage: str, *, awaits: bool, lacks_pixels: bool) -> None:
        """Note the outcome of a try: whether it waits for an answer, or for pixels."""
        at = (source, stage)
        self._lacking.pop(at, None)
        self._awaiting.pop(at, None)
        now = time.monotonic()
        if awaits:
            self._awaiting[at] = now + min(ASK_AGAIN_S, self._question_ends_in())
        elif lacks_pixels:
            self._lacking[at] = now + REST_S

    def retry_now(self, source: str, stage: str) -> None:
        """Try a source at once if it awaits an answer, so that the stage asks about new frames."""
        at = (source, stage)
        if at in self._awaiting:
            self._awaiting[at] = 0.0

    def forget(self, source: str, stage: str) -> None:
        """Wait for nothing of a source."""
        self._lacking.pop((source, stage), None)
        self._awaiting.pop((source, stage), None)

    def resting(self, stage: str) -> list[str]:
        """Return the sources that a stage need not try now."""
        now = time.monotonic()
        held = [*self._lacking.items(), *self._awaiting.items()]
        return [source for (source, name), until in held if name == stage and now < until]

    def lacks_pixels(self) -> bool:
        """Return whether a frame waits for its pixels to be decoded again."""
        return bool(self._lacking)

    def descriptors(self) -> list[int]:
        """Return the descriptors that are readable when answers have arrived."""
        return list(self._asks)

    def take_answers(self, ready: Sequence[int]) -> bool:
        """Take the answers on readable descriptors; return whether a stage has a frame to retry."""
        for descriptor in self._asks.keys() & set(ready):
            self._asks[descriptor].hear()
            self._awaiting = dict.fromkeys(self._awaiting, 0.0)
        now = time.monotonic()
        return any(until <= now for until in self._awaiting.values())

    def retry_in(self) -> float | None:
        """Return the seconds until the next try of a frame that awaits an answer; None: none."""
        if not self._awaiting:
            return None
        return max(0.0, min(self._awaiting.values()) - time.monotonic())

    def _question_ends_in(self) -> float:
        """Return the seconds until the first open question of any stage times out."""
        dues = [asks.due_in() for asks in self._asks.values()]
        return min((due for due in dues if due is not None), default=math.inf)
