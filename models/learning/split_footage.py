"""Split footage in time: the earlier part teaches a model, the later part judges it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

EARLIER: Final = 0.60  # share of the footage that teaches; the later part judges
GAP: Final = 0.05  # share of the footage between the two: neighbouring pictures are alike


def split(moments: Sequence[tuple[str, float]]) -> tuple[list[int], list[int]]:
    """Return the rows of (source, moment_s) that teach, and those that judge.

    The first 60 % of the time of each source teach, the last 35 % judge.
    """
    by_source: dict[str, list[float]] = {}
    for source, moment_s in moments:
        by_source.setdefault(source, []).append(moment_s)
    earlier: list[int] = []
    later: list[int] = []
    for row, (source, moment_s) in enumerate(moments):
        first_s = min(by_source[source])
        length_s = max(by_source[source]) - first_s
        if moment_s <= first_s + EARLIER * length_s:
            earlier.append(row)
        elif moment_s > first_s + (EARLIER + GAP) * length_s:
            later.append(row)
    return earlier, later
