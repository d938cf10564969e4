"""Which frames of a source are wanted: all, key frames, one of so many, or so many a second."""

from __future__ import annotations

from typing import Final

from framegate.pipeline.source import Frames

_EARLY: Final = 0.25


class FrameChoice:
    """Decides frame by frame, in order, from time stamps alone. One source, one thread.

    A frame counts for `max_fps` when the next is due, or up to a quarter of a period before, so
    that a camera's jitter makes no gaps. Frames without a time stamp pass it.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._seen = 0
        self._due: float | None = None

    def takes_packet(self, is_key: bool) -> bool:
        """Whether a packet is worth decoding."""
        return is_key or not self._frames.keyframes

    def takes(self, pts: float | None) -> bool:
        """Whether the next frame, with this time stamp in seconds, is wanted."""
        number, self._seen = self._seen, self._seen + 1
        if number % self._frames.every:
            return False
        if self._frames.max_fps is None or pts is None:
            return True
        period = 1.0 / self._frames.max_fps
        due = self._due
        if due is not None and -2 * period < pts - due < -_EARLY * period:
            return False
        on_time = due is not None and abs(pts - due) < period
        self._due = (due if due is not None and on_time else pts) + period
        return True
