"""A snooze: a period in which rules are not active, as the configuration file has it.

Its text is an ISO 8601 interval of two times with their zones, joined by "/". It has a
begin, so that a replay of the frames before it gives the episodes that the run gave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from framegate.pipeline.contracts.keys import NAME_RULE, is_name

MOST_S: Final = 366 * 86400.0
_LIKE: Final = (
    'must be two times with their zone, such as "2026-11-30T15:00:00Z/2026-11-30T15:30:00Z"; '
    "framegate rules snooze writes them"
)


@dataclass(frozen=True)
class Snooze:
    """A period in which rules are not active.

    since  first time of the period, UNIX seconds
    until  first time after it
    """

    since: float
    until: float

    def has(self, captured: float) -> bool:
        """Return whether a time is in the period. captured: of a frame, UNIX seconds"""
        return self.since <= captured < self.until

    @classmethod
    def read(cls, text: str) -> Snooze:
        """Parse a period as the file has it. Raise ValueError for any other text."""
        begin, _, end = text.partition("/")
        try:
            times = [datetime.fromisoformat(each) for each in (begin, end)]
        except ValueError:
            raise ValueError(_LIKE) from None
        if any(each.tzinfo is None for each in times):
            raise ValueError(_LIKE)
        since, until = (each.timestamp() for each in times)
        if not since < until <= since + MOST_S:
            raise ValueError("the second time must be after the first, and at most 366 days later")
        return cls(since, until)

    @property
    def text(self) -> str:
        """The period as the file has it: whole seconds, in the time zone of this machine."""
        times = [datetime.fromtimestamp(math.ceil(at)) for at in (self.since, self.until)]
        return "/".join(each.astimezone().isoformat() for each in times)


def snooze_fault(text: str) -> str | None:
    """Return the fault of a period in the file; None if there is none, or no period."""
    if not text:
        return None
    try:
        Snooze.read(text)
    except ValueError as error:
        return str(error)
    return None


def snoozes_fault(by_source: Mapping[str, Any]) -> str | None:
    """Return the first fault of periods by source; None if there is none."""
    for source, text in by_source.items():
        if not is_name(source):
            return f"{source[:40]!r} is not the name of a source; a name is {NAME_RULE}"
        fault = _LIKE
        if isinstance(text, str):
            fault = snooze_fault(text) or ""
        if fault:
            return f"{source}: {fault}"
    return None
