"""What escalate knows of a source between two frames, and what it says of one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from framegate.pipeline.heavy.questions import Seen
from framegate.pipeline.records import DegradedReason, Object
from framegate.pipeline.stage import Item
from framegate.stages.audit.audits import AuditState
from framegate.stages.detections import Detections, as_boxes
from framegate.stages.escalate.budget import Budget, Tokens
from framegate.stages.escalate.corrections import Corrections, learned, served
from framegate.stages.escalate.doubt import Level, doubt_of

Wish = Literal["content", "ask", "over_budget"]
Said = tuple[Detections, "EscalateState"]

_UNKNOWN_PERIOD_S = 1 / 30  # of a frame whose time stamps do not tell
_replace = msgspec.structs.replace


class EscalateState(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of escalate: of this epoch, on the source's own clock.

    tokens  asks that are left
    known   what earlier answers said of what is still there
    models  that those came from
    level   how its doubt differs from others'; it goes on over epochs
    audits  where the promise stands; it goes on over epochs
    """

    epoch: int = 0
    pts: float | None = None
    clock_s: float = 0.0
    tokens: Tokens = Tokens()
    known: Corrections = Corrections()
    models: tuple[str, ...] = ()
    level: Level = Level()
    audits: AuditState = AuditState()

    def at(self, item: Item) -> EscalateState:
        """Before a frame: nothing of an epoch goes on into another but what was spent."""
        epoch, pts = item.position.epoch, item.record.pts
        if epoch != self.epoch:
            tokens = Tokens(self.tokens.left)
            return EscalateState(epoch, pts, tokens=tokens, level=self.level, audits=self.audits)
        rises = self.pts is not None and pts is not None and pts > self.pts
        passed_s = (pts or 0.0) - (self.pts or 0.0) if rises else _UNKNOWN_PERIOD_S
        return _replace(self, pts=pts, clock_s=round(self.clock_s + passed_s, 4))


def wish(state: EscalateState, doubt: float, least: float, budget: Budget) -> Wish:
    """Whether to ask about a frame: in doubt from the probability `least` on; after an alarm in any
    case.
    """
    if state.audits.fresh is not None:
        return "ask"
    if doubt < (least if state.audits.chosen is None else state.audits.chosen):
        return "content"
    return "ask" if state.tokens.now(state.clock_s, budget) >= 1.0 else "over_budget"


def doubt_about(state: EscalateState, found: Detections) -> float:
    """How probable it is, 0..1, that the heavy pass would say something else than what is served
    without asking; `state` is that of `unanswered`.
    """
    return doubt_of(state.known, found, state.clock_s, state.level)


def asked(state: EscalateState, budget: Budget) -> EscalateState:
    """After a question about this frame, whatever becomes of it."""
    return _replace(state, tokens=state.tokens.spent(state.clock_s, budget))


def answered(state: EscalateState, found: Detections, seen: Seen) -> Said:
    """What the heavy pass says of this frame, and what that teaches."""
    known, objects = learned(state.known, found, as_boxes(seen), state.clock_s)
    said = _replace(
        found,
        outcome="detected",
        looked="whole",
        objects=objects,
        models=(*found.models, *seen.models),
        age_s=0.0,
        escalation="done",
        changes=None,
    )
    return said, _replace(state, known=known, models=seen.models)


def recalibrated(
    state: EscalateState, doubt: float, unasked: Sequence[Object], true: Sequence[Object]
) -> EscalateState:
    """Once heavy told of a frame in that doubt what is true; unasked: what else was served."""
    classes, others = (sorted(each.class_id for each in side) for side in (unasked, true))
    return _replace(state, level=state.level.after(doubt, classes != others))


def unanswered(state: EscalateState, found: Detections, why: DegradedReason | None) -> Said:
    """What detect says, with what earlier answers said of the same; why: it should have been
    asked, and was not, or in vain.
    """
    objects, known = served(state.known, found, state.clock_s)
    models = (*found.models, *state.models) if known.known else found.models
    said = _replace(found, objects=objects, models=models, changes=None)
    if why is not None:
        said = _replace(said, escalation="degraded", degraded=why)
    return said, _replace(state, known=known)


def as_if_confirmed(state: EscalateState, found: Detections, budget: Budget) -> EscalateState:
    """Where it would stand if the heavy pass saw what detect saw: to look ahead of an answer."""
    boxes = tuple(found_object.box for found_object in found.objects)
    scores = tuple(found_object.score for found_object in found.objects)
    class_ids = tuple(found_object.class_id for found_object in found.objects)
    return answered(asked(state, budget), found, Seen(boxes, scores, class_ids, ()))[1]


def taught(
    state: EscalateState, then: EscalateState, found: Detections, seen: Seen
) -> EscalateState:
    """With what an answer about an earlier frame teaches, which stood at `then`."""
    known, _ = learned(state.known, found, as_boxes(seen), then.clock_s)
    return _replace(state, known=known, models=seen.models)
