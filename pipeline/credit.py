"""How far a decoder may run ahead of the slowest reliable reader. Pure; the caller locks."""

from __future__ import annotations

from collections import deque

from pipeline.records import Position


class Credit:
    """Frames handed out and not yet read by all: at most `limit`, oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_flight: deque[Position] = deque()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether the next frame must wait."""
        return len(self._in_flight) >= self.limit

    def take(self, position: Position) -> None:
        """A frame goes out; positions come in order."""
        self._in_flight.append(position)

    def release(self, read: Position) -> bool:
        """All reliable readers are at `read`; whether that freed anything."""
        before = len(self._in_flight)
        while self._in_flight and self._in_flight[0] <= read:
            self._in_flight.popleft()
        return len(self._in_flight) < before

    @property
    def low_water(self) -> Position:
        """Where readers must be before more is decoded: three quarters on, one frame still to go.

        Hysteresis: a decoder that is woken for each single frame costs more than it decodes.
        """
        n = len(self._in_flight)
        return self._in_flight[max(0, min(3 * n // 4, n - 2))]
