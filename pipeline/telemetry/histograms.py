"""Histograms of latencies: their buckets, and the percentiles that follow from them.

`engine/hosted_stage` measures the latency of a frame when it publishes its result. The store
counts the latency of each published frame in a bucket; a worker keeps the times of its
stages in memory (`run_status`). Buckets grow by a quarter. A percentile is interpolated as
Prometheus does it, as if the frames of a bucket were distributed evenly, so its error is at most a
quarter.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import msgspec

PREFIX = "latency:"
BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(60))  # bounds of latencies in the store
SHORT_BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(-12, 60))  # bounds of a stage's times
EVERY_BOUND = 3  # Prometheus gets every third bound, which is a factor of about 2
_SHORT_BOUNDS_US = tuple(bound * 1e6 for bound in SHORT_BOUNDS_S)
_NAMES = tuple(f"{PREFIX}{index}" for index in range(len(BOUNDS_S) + 1))


def upper_bounds(counts: Sequence[int], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Return a histogram in Prometheus' form: (upper bound in seconds as text, number up to it).

    counts  number of values in each bucket; the last bucket is above all bounds
    """
    total = 0
    cumulative: list[tuple[str, float]] = []
    for index, (bound, n) in enumerate(zip(bounds, counts, strict=False)):
        total += n
        if index % EVERY_BOUND == EVERY_BOUND - 1:
            cumulative.append((f"{bound:.6g}", float(total)))
    return [*cumulative, ("+Inf", float(sum(counts)))]


def latency_bounds(counters: Mapping[str, int]) -> list[tuple[str, float]]:
    """Return the latencies in a source's counters in Prometheus' form."""
    return upper_bounds([counters.get(name, 0) for name in _NAMES], BOUNDS_S)


def bucket(seconds: float) -> str:
    """Return the name of the counter for this latency."""
    return _NAMES[bisect.bisect_left(BOUNDS_S, seconds)]


def percentile(counters: Mapping[str, int], share: float) -> float | None:
    """Return the latency in seconds that `share` (0..1) of the frames stay below, None if none."""
    buckets = sorted(
        (int(name.removeprefix(PREFIX)), n) for name, n in counters.items() if n and PREFIX in name
    )
    rest = share * sum(n for _, n in buckets)
    for index, n in buckets:
        if rest <= n:
            low = 0.0
            if index:
                low = BOUNDS_S[index - 1]
            high = BOUNDS_S[min(index, len(BOUNDS_S) - 1)]  # the last bucket has no upper bound
            return low + (high - low) * rest / n
        rest -= n
    return None


class Durations(msgspec.Struct):
    """A histogram with SHORT_BOUNDS_S. sum_us: sum of all durations in microseconds.

    One thread adds. Another may read, but the sum and the counts may then differ by a value.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SHORT_BOUNDS_S) + 1))
    sum_us: int = 0

    def add_us(self, duration: int) -> None:
        """Count a duration in microseconds."""
        self.counts[bisect.bisect_left(_SHORT_BOUNDS_US, duration)] += 1
        self.sum_us += duration

    def plus(self, other: Durations) -> Durations:
        """Return the sum of both histograms."""
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Durations(counts, self.sum_us + other.sum_us)
