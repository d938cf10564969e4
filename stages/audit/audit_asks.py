"""Questions about drawn frames; what they need lies in a ring until they are answered."""

from __future__ import annotations

from typing import Final, NamedTuple

from framegate.pipeline.errors import FrameLost
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.questions import Question, QuestionId, Seen
from framegate.pipeline.records import Position
from framegate.pipeline.source import Form
from framegate.pipeline.stage import Context, Item, RingPort, RingRef
from framegate.stages.audit.audits import MOST_OPEN, Obligation, Row

_ROW_BYTES: Final = 32 * 1024  # for what was served; boxes of 256 objects twice


class Audited(NamedTuple):
    """What was served of a drawn frame, and what the heavy pass says; None: that is lost."""

    row: Row | None
    true: Seen | None


class AuditAsks:
    """Of one worker's sources. One thread."""

    def __init__(self, asks: Asks, context: Context) -> None:
        self._asks, self._context = asks, context
        self._rows: dict[tuple[str, Position], Row] = {}

    def open(self, item: Item, row: Row, after: RingRef | None) -> RingRef | None:
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
        question = QuestionId(source, at.position, exact=True)
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
        true = answer if isinstance(answer, Seen) else None
        return Audited(self._rows[source, at.position], true)

    def keep(self, source: str, still: set[Position]) -> None:
        """Let go of audits that are over: what they said is in the state for good."""
        for of, position in [known for known in self._rows if known[0] == source]:
            if position not in still:
                del self._rows[of, position]
                self._asks.forget(QuestionId(of, position, exact=True))

    def _ask(self, source: str, at: Position, form: Form, row: Row, pixels: bytes) -> None:
        self._rows[source, at] = row
        question = QuestionId(source, at, exact=True)
        self._asks.ask(Question(question, form, pixels, None, urgent=False))

    def _ring(self, source: str, form: Form) -> RingPort:
        return self._context.ring(source, MOST_OPEN, form.nbytes + _ROW_BYTES)

    def _from_ring(
        self, source: str, at: Obligation, rows: RingRef | None
    ) -> tuple[Row, bytes] | None:
        held = None if rows is None else self._ring(source, at.form).read(rows)
        if rows is None or held is None:
            return None
        index = at.row - rows.row - 1
        return None if -index > len(held) else Row.with_its_pixels(held[index])
