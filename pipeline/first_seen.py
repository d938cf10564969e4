"""The age of a stream's entries, by the kept time of the process that looks at them. Pure.

An entry's id does not show when it was stored, and the times within it come from other clocks. A
process that removes or gives up entries by age therefore notes, from time to time, the newest entry
that it sees. An entry is at least as old as the first note that is not before it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from framegate.pipeline.clocks import HostClock, KeptTime, first_kept_time, kept_time
from framegate.pipeline.records import START, Position

NOTES: Final = 100  # of one age: an entry is taken to be younger than it is by a hundredth of that


class FirstSeen(msgspec.Struct, frozen=True):
    """The notes of one process about a stream, which it stores.

    time   when it looked last
    notes  the newest entry at some moments, and the kept time then; both grow
    """

    time: KeptTime
    notes: tuple[tuple[Position, float], ...] = ()


def look(before: FirstSeen | None, newest: Position, now: HostClock, age_s: float) -> FirstSeen:
    """Return the notes after one more look, as far as ages up to `age_s` need them.

    newest  the newest entry of the stream; START: there is none
    """
    time = first_kept_time(now) if before is None else kept_time(before.time, now)
    notes = () if before is None else before.notes
    old = _old(notes, time.kept_s - age_s)
    notes = notes[max(0, old - 1) :]  # the last of the old notes implies the others
    last, last_s = notes[-1] if notes else (START, -age_s)
    if newest > last and time.kept_s - last_s >= age_s / NOTES:
        notes = (*notes, (newest, time.kept_s))
    return FirstSeen(time, notes)


def old_until(seen: FirstSeen | None, now: HostClock, age_s: float) -> Position:
    """Return the last entry that is known to have been there for `age_s`; START: none is."""
    if seen is None:
        return START
    since = kept_time(seen.time, now).kept_s - age_s
    old = _old(seen.notes, since)
    return seen.notes[old - 1][0] if old else START


def _old(notes: tuple[tuple[Position, float], ...], since: float) -> int:
    """Return how many notes were made at `since` or before."""
    return sum(noted_s <= since for _, noted_s in notes)
