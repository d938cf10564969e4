"""Audits: frames that a coin draws once they are served, held against the heavy pass.

What is to be audited lies in the state, its pixels in a ring beside it; so a worker that dies in
between leaves nothing undone, and no frame is drawn twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.results import Object, Verdict
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import AskPort, Context, Item, RingPort, RingRef
from framegate.pipeline.promise.calibration import binomial_p, fixed_sequence
from framegate.pipeline.promise.period import Period

# -- What other thresholds of doubt would have cost and got wrong, told by audited frames. Pure.
# An audited frame tells of every threshold at once: one at or below its doubt would have asked,
# and been right; one above would have served what was there without asking. So nothing is tried
# out on what is served. Thresholds form one path from "ask always" to "ask never". What was there
# without asking had been taught by the answers that the threshold in use brought; a much higher
# one would have brought fewer. So the next threshold is at most one step up the path.


PATH: Final = (0.0, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.01)
_MOST: Final = 8000  # frames; then older ones count half


class ThresholdStats(msgspec.Struct, frozen=True, array_like=True):
    """frames  that told; wrong, asked  of these, for each threshold of PATH."""

    frames: int = 0
    wrong: tuple[int, ...] = (0,) * len(PATH)
    asked: tuple[int, ...] = (0,) * len(PATH)

    def after(self, doubt: float, is_wrong: bool) -> ThresholdStats:
        """With one more frame: its doubt, and whether what was there without asking was wrong."""
        known = self if self.frames < _MOST else self._halved()
        asks = [doubt >= least for least in PATH]
        wrong = tuple(n + (is_wrong and not ask) for n, ask in zip(known.wrong, asks, strict=True))
        asked = tuple(n + ask for n, ask in zip(known.asked, asks, strict=True))
        return ThresholdStats(known.frames + 1, wrong, asked)

    def certified(self, alpha: float, delta: float) -> float | None:
        """The cheapest threshold shown not to be wrong on more than alpha (0..1) of frames, with
        confidence 1 - delta; None: the frames are too few to show it even of asking always.
        """
        p_values = binomial_p(np.array(self.wrong), self.frames, alpha)
        accepted = fixed_sequence(p_values, delta)
        return PATH[accepted - 1] if accepted else None

    def next_after(self, least: float, alpha: float, delta: float) -> float:
        """The threshold to use after a period with `least`: inside what is certified."""
        found = self.certified(alpha, delta)
        return least if found is None else min(found, cheaper(least))

    def _halved(self) -> ThresholdStats:
        # Rounded up: forgetting must not make anything look better than it was.
        wrong = tuple(-(-n // 2) for n in self.wrong)
        return ThresholdStats(self.frames // 2, wrong, tuple(n // 2 for n in self.asked))


def cheaper(least: float) -> float:
    """The next threshold of PATH above, but asking never: who never asks is never taught."""
    return min((one for one in PATH[:-1] if one > least), default=least)


def safer(least: float) -> float:
    """The next threshold of PATH below; asking always has none."""
    return max((one for one in PATH if one < least), default=PATH[0])


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
    thresholds  what others would have cost; chosen  the one in use, None: that of the options
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
    thresholds: ThresholdStats = ThresholdStats()
    chosen: float | None = None
    verdict: Verdict | None = None
    fresh: int | None = None
    declared: int = 0
    last: Position = START
    coin: str = ""


class AuditRow(msgspec.Struct, frozen=True, array_like=True):
    """What was served of a frame, and what would have been without asking."""

    served: Predictions
    unasked: Predictions

    def with_pixels(self, pixels: bytes) -> bytes:
        """As it lies in the ring."""
        head = records.encode(self)
        return len(head).to_bytes(4, "little") + head + pixels

    @staticmethod
    def with_its_pixels(data: bytes) -> tuple[AuditRow, bytes]:
        """What lies in the ring."""
        end = 4 + int.from_bytes(data[:4], "little")
        return records.decode(data[4:end], AuditRow), data[end:]


def seen_in(objects: Sequence[Object]) -> Predictions:
    """Served objects as boxes, for comparison."""
    boxes, scores = tuple(o.box for o in objects), tuple(o.score for o in objects)
    return Predictions(boxes, scores, tuple(o.class_id for o in objects), ())


def differs(served: Predictions, true: Predictions) -> bool:
    """Whether a frame has another number of objects of some class than the heavy pass says."""
    return Counter(served.class_ids) != Counter(true.class_ids)


# -- Questions about drawn frames; what they need lies in a ring until they are answered.


_ROW_BYTES: Final = 32 * 1024  # for what was served; boxes of 256 objects twice


class Audited(NamedTuple):
    """What was served of a drawn frame, and what the heavy pass says; None: that is lost."""

    row: AuditRow | None
    true: Predictions | None


class AuditQueries:
    """Of one worker's sources. One thread."""

    def __init__(self, asks: AskPort, context: Context) -> None:
        self._asks, self._context = asks, context
        self._rows: dict[tuple[str, Position], AuditRow] = {}

    def open(self, item: Item, row: AuditRow, after: RingRef | None) -> RingRef | None:
        """Put a drawn frame's question; names the ring's row. None where its pixels are lost;
        FrameLost where a file's will be decoded again.
        """
        form = item.record.form
        try:
            with self._context.pixels(item) as held:
                pixels = bytes(held)
        except FrameLost as lost:
            if not (lost.final or self._context.live(item.source)):
                raise
            return None
        rows = self._ring(item.source, form).write(item.position, row.with_pixels(pixels), after)
        self._ask(item.source, item.position, form, row, pixels)
        return rows

    def answer(self, source: str, at: Obligation, rows: RingRef | None) -> Audited | None:
        """What became of an audit, None while it may come; who has just begun asks anew."""
        question = QueryId(source, at.position, exact=True)
        if not self._asks.knows(question) or (source, at.position) not in self._rows:
            if not self._asks.has_room(at.form.nbytes, urgent=False):
                return None
            held = self._from_ring(source, at, rows)
            if held is None:
                return Audited(None, None)
            self._ask(source, at.position, at.form, *held)
        answer = self._asks.answer(question)
        if answer is None:
            return None
        true = answer if isinstance(answer, Predictions) else None
        return Audited(self._rows[source, at.position], true)

    def keep(self, source: str, still: set[Position]) -> None:
        """Let go of audits that are over: what they said is in the state for good."""
        for of, position in [known for known in self._rows if known[0] == source]:
            if position not in still:
                del self._rows[of, position]
                self._asks.forget(QueryId(of, position, exact=True))

    def _ask(self, source: str, at: Position, form: Form, row: AuditRow, pixels: bytes) -> None:
        self._rows[source, at] = row
        question = QueryId(source, at, exact=True)
        self._asks.ask(Query(question, form, pixels, None, urgent=False))

    def _ring(self, source: str, form: Form) -> RingPort:
        return self._context.ring(source, MOST_OPEN, form.nbytes + _ROW_BYTES)

    def _from_ring(
        self, source: str, at: Obligation, rows: RingRef | None
    ) -> tuple[AuditRow, bytes] | None:
        held = None if rows is None else self._ring(source, at.form).read(rows)
        if rows is None or held is None:
            return None
        index = at.row - rows.row - 1
        return None if -index > len(held) else AuditRow.with_its_pixels(held[index])
