"""What went on in a source since the heavy pass last said something: a few small numbers."""

from __future__ import annotations

import msgspec

_MEAN_OVER = 3.0  # answers; what was before is forgotten, exponentially
_MOST = 3.0  # objects of one answer that surprise counts


class Unrest(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Since the last answer, or since the beginning.

    stirred   sum over the frames of the share of the picture, 0..1, that had changed
    flips     frames in which something came, went, or was seen or lost by light
    surprise  0..3, objects in which answers differed from what would have been served without them;
              a mean over the last few
    """

    stirred: float = 0.0
    flips: int = 0
    surprise: float = 1.0

    def after(self, share_changed: float, has_flipped: bool) -> Unrest:
        """One frame later."""
        stirred = round(self.stirred + share_changed, 4)
        return Unrest(stirred, self.flips + has_flipped, self.surprise)

    def answered(self, differing: int) -> Unrest:
        """After an answer, in which so many objects differed."""
        news = (min(float(differing), _MOST) - self.surprise) / _MEAN_OVER
        return Unrest(surprise=round(self.surprise + news, 3))
