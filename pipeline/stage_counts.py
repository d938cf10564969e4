"""What a stage counts in its worker's memory: queries to a heavier model, hits, footage kept."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from framegate.pipeline.retry import BreakerState


class AskCounts(msgspec.Struct):
    """What became of a stage's queries since its worker began.

    answered, joined    with predictions, each content once; queries that shared those of another
    degraded            without, by reason
    sent_bytes, wire_s  of the place
    waited_s            seconds from query to reply, summed over `answered`
    breaker             of the place
    left                asks that each source's budget has left, at its last frame
    """

    answered: int = 0
    joined: int = 0
    degraded: dict[str, int] = {}
    sent_bytes: int = 0
    wire_s: float = 0.0
    waited_s: float = 0.0
    breaker: BreakerState = "closed"
    left: dict[str, float] = {}

    def plus(self, later: AskCounts | None) -> AskCounts:
        """Return both together, with the later one's breaker and budgets."""
        if later is None:
            return self
        return AskCounts(
            self.answered + later.answered,
            self.joined + later.joined,
            _sums(self.degraded, later.degraded),
            self.sent_bytes + later.sent_bytes,
            self.wire_s + later.wire_s,
            self.waited_s + later.waited_s,
            later.breaker,
            later.left,
        )


class CacheCounts(msgspec.Struct):
    """What came of a stage's look-ups in its memos since its worker began, over all groups.

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
        """Return both together, with the later one's groups."""
        if later is None:
            return self
        counted = ("hits", "misses", "refused", "skipped")
        sums = {name: getattr(self, name) + getattr(later, name) for name in counted}
        return msgspec.structs.replace(later, **sums)


class FootageCounts(msgspec.Struct):
    """What became of frames that were due to be kept as footage, since the stage's worker began.

    kept     by why. even: evenly spaced. audit: drawn for the promise. heavy: the heavy pass was
             asked. doubt: it should have been. change: another scene began
    dropped  by reason. same: nothing moved since the last one. lost: their pixels were gone.
             unwritable: the disk did not take them
    removed  frames that went as they were too old, or too much
    nbytes   of all that is kept now
    """

    kept: dict[str, int] = {}
    dropped: dict[str, int] = {}
    removed: int = 0
    nbytes: int = 0

    def plus(self, later: FootageCounts | None) -> FootageCounts:
        """Return both together, with the later one's bytes."""
        if later is None:
            return self
        return FootageCounts(
            _sums(self.kept, later.kept),
            _sums(self.dropped, later.dropped),
            self.removed + later.removed,
            later.nbytes,
        )


def _sums(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in sorted({*one, *other})}
