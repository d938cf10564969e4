"""What came of a stage's look-ups of answers: counted in its memory, told when asked."""

from __future__ import annotations

import msgspec


class CacheCounts(msgspec.Struct):
    """Since its worker began, over all groups of sources.

    hits, misses  inputs that were answered, or not, by what an equal one was answered
    refused       of the misses, those where what was found was no answer to them
    skipped       inputs that were not looked up, as hits are rare
    groups, off   groups of sources, and those that look up a sample only
    """

    hits: int = 0
    misses: int = 0
    refused: int = 0
    skipped: int = 0
    groups: int = 0
    off: int = 0

    def plus(self, later: CacheCounts | None) -> CacheCounts:
        """Both together, with the later one's groups."""
        if later is None:
            return self
        counted = ("hits", "misses", "refused", "skipped")
        sums = {name: getattr(self, name) + getattr(later, name) for name in counted}
        return msgspec.structs.replace(later, **sums)
