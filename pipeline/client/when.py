"""From when to when, as people write it: times and positions."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime
from datetime import time as time_of_day
from typing import Any, Final

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Output, Result

WHEN: Final = "a time (2026-11-27T10:30, 10:30, or 15m for 15 minutes ago) or a position (1-250)"
TimeOrPosition = float | Position  # UNIX seconds, or a place
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str, now: float) -> TimeOrPosition:
    """Read a time, of this host's zone unless it says another, or a position. ValueError."""
    if re.fullmatch(r"[0-9]+-[0-9]+", text):
        return Position.parse(text)
    with contextlib.suppress(ValueError):
        return now - duration_s(text)
    if re.fullmatch(r"[0-9]{9,}(?:\.[0-9]+)?", text):  # as results have it
        return float(text)
    for read in (_today_at, datetime.fromisoformat):
        try:
            return read(text).timestamp()
        except ValueError:
            continue
    raise ValueError(f"{text[:40]!r}: allowed is {WHEN}")


def duration_s(text: str) -> float:
    """Read 90s, 15m, 1h or 2d, in seconds. ValueError."""
    if found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text):
        return float(found[1]) * _UNITS_S[found[2]]
    raise ValueError(f"{text[:40]!r}: allowed is a duration, as 90s, 15m, 1h or 1d")


def _today_at(text: str) -> datetime:
    return datetime.combine(datetime.now(), time_of_day.fromisoformat(text))


@dataclass(frozen=True)
class Span:
    """What lies between two moments, both included; None: no bound there."""

    first: TimeOrPosition | None = None
    last: TimeOrPosition | None = None

    def has(self, each: Result | Output[Any]) -> bool:
        """Whether a frame lies in it: by its position, or by when it was captured."""
        return (self.first is None or not _is_before(each, self.first)) and (
            self.last is None or not _is_after(each, self.last)
        )


def _is_before(each: Result | Output[Any], edge: TimeOrPosition) -> bool:
    return each.position < edge if isinstance(edge, Position) else each.captured < edge


def _is_after(each: Result | Output[Any], edge: TimeOrPosition) -> bool:
    return each.position > edge if isinstance(edge, Position) else each.captured > edge
