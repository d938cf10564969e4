"""What a stage counts in its worker's memory: its queries to a heavier model, its memo's hits."""

from __future__ import annotations

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
        reasons = self.degraded.keys() | later.degraded.keys()
        return AskCounts(
            self.answered + later.answered,
            self.joined + later.joined,
            {why: self.degraded.get(why, 0) + later.degraded.get(why, 0) for why in reasons},
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
