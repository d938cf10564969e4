"""What a stage counts of its questions and of its look-ups, in its worker's memory."""

from __future__ import annotations

import msgspec

from framegate.pipeline.retry import BreakerState


class AskCounts(msgspec.Struct):
    """What became of a worker's questions since it began.

    answered, joined    looked at by the place; the same as one that was under way
    degraded            no answer, by reason
    sent_bytes, wire_s  of the place
    waited_s            from question to answer, summed
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
        """Both together, with the later one's breaker and budgets."""
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


# -- What came of a stage's look-ups of answers: counted in its memory, told when asked.


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
