"""A moment of a source: by its frames, by its media time and by the clock."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """A time of a source, by its frames, its media and the clock.

    epoch     epoch of the frame
    seq       number of the frame in its epoch
    media_s   media time in seconds within the epoch; durations are differences of these
    captured  UNIX seconds, for display and for joining with other data; the clock may step
    """

    epoch: int
    seq: int
    media_s: float
    captured: float


class StoredMoment(NamedTuple):
    """A moment in the form in which states store it; see `Moment`."""

    epoch: int
    seq: int
    media_s: float
    captured: float

    @property
    def moment(self) -> Moment:
        """The same moment in its public form."""
        return Moment(*self)

    @property
    def ms(self) -> int:
        """The media time in whole milliseconds."""
        return round(self.media_s * 1000)
