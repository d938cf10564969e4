"""Audits: frames that a coin draws once they are served, held against the heavy pass. Pure.

What is to be audited lies in the state, its pixels in a ring beside it; so a worker that dies in
between leaves nothing undone, and no frame is drawn twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from framegate.pipeline import records
from framegate.pipeline.heavy.questions import Seen
from framegate.pipeline.promise.period import Period
from framegate.pipeline.records import START, Object, Position, Verdict
from framegate.pipeline.source import Form
from framegate.pipeline.stage import RingRef
from framegate.stages.audit.arms import Arms

MOST_OPEN: Final = 8


class Obligation(msgspec.Struct, frozen=True, array_like=True):
    """A served frame that is to be audited.

    period  that it was drawn in; frame counts the source's frames; at_s is the source's clock
    row     of the ring that holds what was served and the pixels
    doubt   0..1, as it was before the frame was asked about, if it was
    spent   whether it was to be asked about, and no budget was left
    """

    period: int
    position: Position
    form: Form
    frame: int
    at_s: float
    row: int
    doubt: float
    spent: bool = False


class AuditState(msgspec.Struct, frozen=True, array_like=True):
    """Where the promise stands with a source.

    now      the period that frames are served in; before  those whose last audits are open
    open     oldest first; rows  names the ring's newest
    frames   served so far, over all periods; policy  8 digits of the hash of what counts as truth
    models   of no use any more, and empty: each period has its own
    arms     what other thresholds of doubt would have cost; chosen  the one in use, None: as said
    verdict  of the last period that is over; declared  number of the last that was told of
    last     frame that was counted; coin  8 digits of the commitment to now's
    fresh    frames since an alarm, each of which was asked about; None: there is none
    """

    now: Period = Period()
    before: tuple[Period, ...] = ()
    open: tuple[Obligation, ...] = ()
    rows: RingRef | None = None
    frames: int = 0
    policy: str = ""
    models: tuple[str, ...] = ()
    arms: Arms = Arms()
    chosen: float | None = None
    verdict: Verdict | None = None
    fresh: int | None = None
    declared: int = 0
    last: Position = START
    coin: str = ""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """What was served of a frame, and what would have been without asking."""

    served: Seen
    unasked: Seen

    def with_pixels(self, pixels: bytes) -> bytes:
        """As it lies in the ring."""
        head = records.encode(self)
        return len(head).to_bytes(4, "little") + head + pixels

    @staticmethod
    def with_its_pixels(data: bytes) -> tuple[Row, bytes]:
        """What lies in the ring."""
        end = 4 + int.from_bytes(data[:4], "little")
        return records.decode(data[4:end], Row), data[end:]


def seen_in(objects: Sequence[Object]) -> Seen:
    """Served objects as boxes, for comparison."""
    boxes, scores = tuple(o.box for o in objects), tuple(o.score for o in objects)
    return Seen(boxes, scores, tuple(o.class_id for o in objects), ())


def differs(served: Seen, true: Seen) -> bool:
    """Whether a frame has another number of objects of some class than the heavy pass says."""
    return Counter(served.class_ids) != Counter(true.class_ids)
