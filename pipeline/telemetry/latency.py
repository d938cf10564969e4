"""Latency histograms that live in a source's counters, so that any reader agrees with the store.

Buckets grow by a quarter: a percentile read from them is right to within 12 %.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping

PREFIX = "latency:"
BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(60))


_NAMES = tuple(f"{PREFIX}{index}" for index in range(len(BOUNDS_S) + 1))


def bucket(seconds: float) -> str:
    """Counter of the bucket that holds this latency."""
    return _NAMES[bisect.bisect_left(BOUNDS_S, seconds)]


def percentile(counters: Mapping[str, int], share: float) -> float | None:
    """The latency in seconds below which `share` (0..1) of the frames stayed; None without any."""
    filled = sorted(
        (int(name.removeprefix(PREFIX)), n) for name, n in counters.items() if n and PREFIX in name
    )
    wanted = share * sum(n for _, n in filled)
    for index, n in filled:
        wanted -= n
        if wanted <= 0:
            high: float = BOUNDS_S[min(index, len(BOUNDS_S) - 1)]
            return float(high / 1.25**0.5)
    return None
