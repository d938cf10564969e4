"""How long a worker's stages waited and worked: counted in its memory, told when asked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from framegate.pipeline.counts import AskCounts, CacheCounts

BUCKETS = 64
FIRST, LAST = 6, 27  # bounds that are shown: 64 µs to 134 s


class Durations(msgspec.Struct):
    """A histogram. counts[n]: durations from 2**(n-1) µs to below 2**n µs; sum_us of all.

    One thread adds; another may read, and finds the sum a moment before or after the counts.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)
    sum_us: int = 0

    def add_us(self, duration: int) -> None:
        """Count a duration in microseconds; a bucket is found by a length, not by a search."""
        self.counts[duration.bit_length()] += 1
        self.sum_us += duration

    def plus(self, other: Durations) -> Durations:
        """Both together."""
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Durations(counts, self.sum_us + other.sum_us)

    def upper_bounds(self) -> list[tuple[str, float]]:
        """(bound in seconds as text, durations up to it), growing, the last one without bound."""
        below = sum(self.counts[:FIRST])
        bounds = []
        for n in range(FIRST, LAST + 1):
            below += self.counts[n]
            bounds.append((repr(2**n / 1e6), float(below)))
        return [*bounds, ("+Inf", float(sum(self.counts)))]


class StageTimes(msgspec.Struct):
    """Of one stage.

    waited  for each batch: its first frame, from when the stage before had done it
    worked  for each batch: all of it
    frames  in all batches
    asks    what became of its questions, if it asks
    cache   what came of its look-ups, if it looks answers up
    """

    waited: Durations = msgspec.field(default_factory=Durations)
    worked: Durations = msgspec.field(default_factory=Durations)
    frames: int = 0
    asks: AskCounts | None = None
    cache: CacheCounts | None = None

    def plus(self, other: StageTimes) -> StageTimes:
        """Both together; `other` is the later one."""
        return StageTimes(
            self.waited.plus(other.waited),
            self.worked.plus(other.worked),
            self.frames + other.frames,
            other.asks if self.asks is None else self.asks.plus(other.asks),
            other.cache if self.cache is None else self.cache.plus(other.cache),
        )


class TimesOverLives:
    """The times of a worker's stages over all its lives.

    What a killed one had not told since it was last asked is lost: it was only in its memory.
    """

    def __init__(self) -> None:
        self._past: dict[str, StageTimes] = {}
        self._now: dict[str, StageTimes] = {}

    def told(self, now: Mapping[str, StageTimes]) -> None:
        """The living worker's, since it began."""
        self._now = dict(now)

    def died(self) -> None:
        """Another begins at nothing."""
        self._past, self._now = self.total(), {}

    def total(self) -> dict[str, StageTimes]:
        """By stage."""
        nothing = StageTimes()
        return {
            stage: self._past.get(stage, nothing).plus(self._now.get(stage, nothing))
            for stage in self._past.keys() | self._now.keys()
        }
