"""Limits of a decoder: how far it may be ahead of its slowest reader, and in how many sizes.

The caller locks. `store_waits` asks the store for the readers' positions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form

MAX_SIZES = 2  # whose pixels a source keeps at once: at a change, also those of the size before
MAX_CHANGES = 30
CHANGES_S = 60.0
_FRAME_S = 1 / 25  # assumed duration of a frame without a time
_LEAP_S = 10.0  # a longer step is a broken clock


def low_water(n: int) -> int:
    """Return the index, among n unread frames, of the frame that readers must have read before the
    decoder continues: three quarters of them, but one frame is left.

    A wake-up for each single frame would cost more than its decoding.
    """
    return max(0, min(3 * n // 4, n - 2))


def still_unread(limit: int) -> int:
    """Return the number of unread frames when a decoder without credit is woken."""
    return limit - 1 - low_water(limit)


class Credit:
    """The frames that some reader has not read, oldest first.

    The credit is used up at `limit` frames and, for a file, at `max_sound_s` seconds of their
    sound.
    """

    def __init__(self, limit: int, max_sound_s: float = math.inf) -> None:
        self.limit = limit
        self._max_sound_s = max_sound_s
        self._sound_s = 0.0
        self._in_flight: deque[tuple[Position, float]] = deque()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Return whether the next frame must wait."""
        return len(self._in_flight) >= self.limit or self._sound_s >= self._max_sound_s

    def take(self, position: Position, sound_s: float = 0.0) -> None:
        """Note a frame with its seconds of sound; positions rise."""
        self._in_flight.append((position, sound_s))
        self._sound_s += sound_s

    def release(self, read: Position) -> bool:
        """Note that all reliable readers are at `read`; return whether that freed a frame."""
        before = len(self._in_flight)
        while self._in_flight and self._in_flight[0][0] <= read:
            self._sound_s -= self._in_flight.popleft()[1]
        if not self._in_flight:
            self._sound_s = 0.0
        return len(self._in_flight) < before

    @property
    def low_water(self) -> Position:
        """Return the position that readers must reach before the decoder continues."""
        return self._in_flight[low_water(len(self._in_flight))][0]


class Sizes:
    """The forms of pictures whose pixels some reader may still want, at most MAX_SIZES.

    The newest form stays: the next frame probably has it, and clients see the source's last frame.
    """

    def __init__(self) -> None:
        self._last: dict[Form, Position] = {}  # the last frame of each form, oldest form first

    def __iter__(self) -> Iterator[Form]:
        return iter(self._last)

    def waits_for(self, form: Form) -> Position | None:
        """Return the position that readers must reach before such a frame; None: at once."""
        if form in self._last or len(self._last) < MAX_SIZES:
            return None
        return next(iter(self._last.values()))

    @property
    def oldest(self) -> Position | None:
        """Return the position that readers must reach to free memory; None: they can free none."""
        if len(self._last) <= 1:
            return None
        return next(iter(self._last.values()))

    def take(self, form: Form, position: Position) -> bool:
        """Note a frame; return whether its form is new."""
        is_new = self._last.pop(form, None) is None
        self._last[form] = position
        return is_new

    def release(self, read: Position) -> bool:
        """Note that all reliable readers are at `read`; return whether that freed a form."""
        older = list(self._last.items())[:-1]
        gone = [form for form, last in older if last <= read]
        for form in gone:
            del self._last[form]
        return bool(gone)


class SizeChanges:
    """The changes of a source's picture size. Each begins an epoch, so every stage starts again.

    More than MAX_CHANGES within CHANGES_S seconds of the source's time are too many.
    """

    def __init__(self) -> None:
        self._form: Form | None = None
        self._before_s: float | None = None
        self._clock_s = 0.0
        self._at_s: deque[float] = deque(maxlen=MAX_CHANGES)

    def too_many(self, form: Form, time_s: float | None) -> bool:
        """Note the next picture's form; return whether it is one change too many.

        time_s: pts or arrival in seconds, None if unknown.
        """
        step = _FRAME_S
        if time_s is not None and self._before_s is not None:
            passed = time_s - self._before_s
            if 0 <= passed < _LEAP_S:
                step = passed
        self._before_s = time_s
        self._clock_s += step
        is_change = self._form is not None and form != self._form
        self._form = form
        if not is_change:
            return False
        is_full = len(self._at_s) == MAX_CHANGES
        too_many = is_full and self._clock_s - self._at_s[0] < CHANGES_S
        self._at_s.append(self._clock_s)
        return too_many


def changes_fault() -> str:
    """Return the fault of a source with too many changes."""
    return (
        f"its picture size changed more than {MAX_CHANGES} times in {CHANGES_S:.0f} s; at most "
        f"{MAX_CHANGES} changes are allowed"
    )
