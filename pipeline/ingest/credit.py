"""When a decoder may go on: how far ahead of its slowest reader, and in how many picture sizes.

Pure; who uses it locks. The store is asked where readers stand in `store_waits`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form

MOST_SIZES = 2  # whose pixels a source keeps at once: at a change, those of the size before as well
MOST_CHANGES = 30
CHANGES_S = 60.0
_FRAME_S = 1 / 25  # of a frame whose time is not known
_LEAP_S = 10.0


def low_water(n: int) -> int:
    """Which of n frames that are out readers must have read before more is decoded, from 0: three
    quarters on, one frame still to go.

    Hysteresis: a decoder that is woken for each single frame costs more than it decodes.
    """
    return max(0, min(3 * n // 4, n - 2))


def still_unread(limit: int) -> int:
    """Frames that are still unread when a decoder whose credit was used up is woken."""
    return limit - 1 - low_water(limit)


class Credit:
    """Frames handed out and not yet read by all: at most `limit`, oldest first; and, of a file, no
    more once the sound that they carry is `most_sound_s` seconds.
    """

    def __init__(self, limit: int, most_sound_s: float = math.inf) -> None:
        self.limit = limit
        self._most_sound_s = most_sound_s
        self._sound_s = 0.0
        self._in_flight: deque[tuple[Position, float]] = deque()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Return whether the next frame must wait."""
        return len(self._in_flight) >= self.limit or self._sound_s >= self._most_sound_s

    def take(self, position: Position, sound_s: float = 0.0) -> None:
        """Note that a frame goes out, with so many seconds of sound; positions come in order."""
        self._in_flight.append((position, sound_s))
        self._sound_s += sound_s

    def release(self, read: Position) -> bool:
        """Note that all reliable readers are at `read`; return whether that freed anything."""
        before = len(self._in_flight)
        while self._in_flight and self._in_flight[0][0] <= read:
            self._sound_s -= self._in_flight.popleft()[1]
        if not self._in_flight:
            self._sound_s = 0.0
        return len(self._in_flight) < before

    @property
    def low_water(self) -> Position:
        """Where readers must be before more is decoded."""
        return self._in_flight[low_water(len(self._in_flight))][0]


class Sizes:
    """Forms of pictures whose pixels some reader may still want, MOST_SIZES at most.

    The one that came last stays, as the next frame has it most likely, and whoever looks at the
    source sees the last of them.
    """

    def __init__(self) -> None:
        self._last: dict[Form, Position] = {}  # the last frame of each, in order

    def __iter__(self) -> Iterator[Form]:
        return iter(self._last)

    def waits_for(self, form: Form) -> Position | None:
        """Where readers must be before a frame of this form goes out; None: it may."""
        if form in self._last or len(self._last) < MOST_SIZES:
            return None
        return next(iter(self._last.values()))

    @property
    def oldest(self) -> Position | None:
        """Where readers must be for memory to come free; None where they can free none."""
        return next(iter(self._last.values())) if len(self._last) > 1 else None

    def take(self, form: Form, position: Position) -> bool:
        """Note that a frame goes out; return whether its form is another than those held."""
        is_new = self._last.pop(form, None) is None
        self._last[form] = position
        return is_new

    def release(self, read: Position) -> bool:
        """Note that all reliable readers are at `read`; return whether that freed any form."""
        gone = [form for form, last in list(self._last.items())[:-1] if last <= read]
        for form in gone:
            del self._last[form]
        return bool(gone)


class SizeChanges:
    """Changes of a source's picture size: each is an epoch, hence work for everybody.

    More than MOST_CHANGES within CHANGES_S seconds of the source's time are too many.
    """

    def __init__(self) -> None:
        self._form: Form | None = None
        self._before_s: float | None = None
        self._clock_s = 0.0
        self._at_s: deque[float] = deque(maxlen=MOST_CHANGES)

    def too_many(self, form: Form, time_s: float | None) -> bool:
        """Note the form of the next picture, at this time (pts or arrival, seconds; None: not
        known); return whether it is one change too many.
        """
        step = _FRAME_S
        if time_s is not None and self._before_s is not None:
            passed = time_s - self._before_s
            step = passed if 0 <= passed < _LEAP_S else _FRAME_S
        self._before_s = time_s
        self._clock_s += step
        changes = self._form is not None and form != self._form
        self._form = form
        if not changes:
            return False
        full = len(self._at_s) == MOST_CHANGES
        too_many = full and self._clock_s - self._at_s[0] < CHANGES_S
        self._at_s.append(self._clock_s)
        return too_many


def changes_fault() -> str:
    """The fault of a source with too many changes."""
    return (
        f"its picture size changed more than {MOST_CHANGES} times in {CHANGES_S:.0f} s; allowed "
        f"are {MOST_CHANGES}"
    )
