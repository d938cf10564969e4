"""Spans of time or positions, as users write them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime
from datetime import time as time_of_day
from typing import Any, Final

from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Output, Result

TIME: Final = "a time (2026-11-27T10:30, 10:30, or 15m for 15 minutes ago)"
WHEN: Final = f"{TIME} or a position (1-250)"
TimeOrPosition = float | Position  # UNIX seconds, or a position


def moment(text: str, now: float) -> TimeOrPosition:
    """Parse a time or a position. Raise ValueError for any other text.

    A time without a zone is in the zone of this host. now: UNIX seconds
    """
    if re.fullmatch(r"[0-9]+-[0-9]+", text):
        return Position.parse(text)
    with contextlib.suppress(ValueError):
        return now - duration_s(text)
    if re.fullmatch(r"[0-9]{9,11}(?:\.[0-9]{1,9})?", text):  # UNIX seconds, as in results
        return float(text)
    for read in (_today_at, datetime.fromisoformat):
        try:
            return read(text).timestamp()
        except ValueError:
            continue
    raise ValueError(f"must be {WHEN}, got {text[:40]!r}")


def time_of(text: str, now: float) -> float:
    """Parse a time as `moment` does. Raise ValueError for any other text, also for a position."""
    with contextlib.suppress(ValueError):
        when = moment(text, now)
        if isinstance(when, float):
            return when
    raise ValueError(f"must be {TIME}, got {text[:40]!r}")


def _today_at(text: str) -> datetime:
    return datetime.combine(datetime.now(), time_of_day.fromisoformat(text))


@dataclass(frozen=True)
class Span:
    """The span between two times or positions, both included; None: no bound."""

    first: TimeOrPosition | None = None
    last: TimeOrPosition | None = None

    def has(self, each: Result | Output[Any]) -> bool:
        """Return whether a frame is in the span, by its position or its time of capture."""
        is_before = self.first is not None and _is_before(each, self.first)
        is_after = self.last is not None and _is_after(each, self.last)
        return not is_before and not is_after


def _is_before(each: Result | Output[Any], edge: TimeOrPosition) -> bool:
    if isinstance(edge, Position):
        return each.position < edge
    return each.captured < edge


def _is_after(each: Result | Output[Any], edge: TimeOrPosition) -> bool:
    if isinstance(edge, Position):
        return each.position > edge
    return each.captured > edge
