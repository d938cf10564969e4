"""Audits: published frames that a coin draws, compared with the heavy pass.

Open audits are in the state, their pixels in a ring. Therefore a restarted worker completes the
audits of the worker before it, and draws no frame twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.object_filters import ObjectFilter, dropping
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.results import Object, Verdict
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import AskPort, Context, Item, RingPort, RingRef
from framegate.pipeline.promise.calibration import binomial_p, fixed_sequence
from framegate.pipeline.promise.period import Period
from framegate.stages.object_filters import digest_of, filtered

# -- Errors and queries of all thresholds of doubt, estimated from audited frames. Pure.
#
# An audited frame is evidence for each threshold at once: a threshold at or below its doubt would
# have asked and been right; a threshold above it would have published the result without asking.
# So no threshold is tried out on published frames. The thresholds form a path from "ask always" to
# "ask never". The result without asking depends on corrections by earlier answers, and a much
# higher threshold would have had fewer answers. So the threshold rises by at most one step of the
# path for each period.


PATH: Final = (0.0, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.01)
_MAX_FRAMES: Final = 8000  # at this number, all counts are halved


class ThresholdStats(msgspec.Struct, frozen=True, array_like=True):
    """Counts of audited frames.

    frames  number of frames
    wrong   for each threshold of PATH, the frames that it would have published wrong
    asked   for each threshold of PATH, the frames about which it would have asked
    """

    frames: int = 0
    wrong: tuple[int, ...] = (0,) * len(PATH)
    asked: tuple[int, ...] = (0,) * len(PATH)

    def after(self, doubt: float, is_wrong: bool) -> ThresholdStats:
        """Return the counts with one more frame.

        doubt     doubt of the frame, 0..1
        is_wrong  its result without asking was wrong
        """
        counts = self
        if self.frames >= _MAX_FRAMES:
            counts = self._halved()
        wrong = list(counts.wrong)
        asked = list(counts.asked)
        for step, threshold in enumerate(PATH):
            if doubt >= threshold:
                asked[step] += 1
            elif is_wrong:
                wrong[step] += 1
        return ThresholdStats(counts.frames + 1, tuple(wrong), tuple(asked))

    def certified(self, alpha: float, delta: float) -> float | None:
        """Return the highest threshold with at most a share `alpha` of wrong frames, with
        confidence 1 - `delta`; None: too few frames even for "ask always".
        """
        p_values = binomial_p(np.array(self.wrong), self.frames, alpha)
        accepted = fixed_sequence(p_values, delta)
        if not accepted:
            return None
        return PATH[accepted - 1]

    def next_after(self, threshold: float, alpha: float, delta: float) -> float:
        """Return the threshold for the period after one with `threshold`."""
        certified = self.certified(alpha, delta)
        if certified is None:
            return threshold
        return min(certified, cheaper(threshold))

    def _halved(self) -> ThresholdStats:
        # Errors round up, so that no threshold looks better than it was.
        wrong = tuple((count + 1) // 2 for count in self.wrong)
        asked = tuple(count // 2 for count in self.asked)
        return ThresholdStats(self.frames // 2, wrong, asked)


def cheaper(threshold: float) -> float:
    """Return the next higher threshold of PATH, but not "ask never", which would end learning."""
    return min((step for step in PATH[:-1] if step > threshold), default=threshold)


def safer(threshold: float) -> float:
    """Return the next lower threshold of PATH; at least "ask always"."""
    return max((step for step in PATH if step < threshold), default=PATH[0])


MAX_OPEN: Final = 8


class Obligation(msgspec.Struct, frozen=True, array_like=True):
    """A published frame whose audit is open.

    period  number of the period in which it was drawn
    frame   number of frames of the source at that time
    at_s    the source's clock at the frame, seconds
    row     row of the ring with its AuditRow and pixels
    doubt   0..1, before a query about the frame; below 0: no threshold would have asked about it
    spent   a query was wanted, but the budget was spent
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
    """The state of the promise for a source.

    now         the current period
    before      earlier periods with open audits
    open        open audits, oldest first
    rows        reference to the newest row of the ring
    frames      number of frames published so far, over all periods
    policy      first 8 digits of the hash of the heavy pass's policy
    models      unused and empty: each period has its own
    thresholds  counts for all thresholds
    chosen      threshold in use; None: that of the options
    verdict     verdict of the last closed period
    declared    number of the last declared period
    last        last counted frame
    coin        first 8 digits of the commitment to the coin of `now`
    fresh       number of frames since an alarm, all of which were asked about; None: no alarm
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


class Doubt(NamedTuple):
    """The doubt about a frame, before a query about it.

    chance  0..1, that the heavy model would contradict the result
    facts   what a source learns from: 1, and the features whose weights it learns
    """

    chance: float
    facts: tuple[float, ...] = ()


class AuditRow(msgspec.Struct, frozen=True, array_like=True):
    """The published result of a frame, its result without asking, and the doubt about that.

    filters  digest of the source's object filters when it was published; None: not known
    """

    served: Predictions
    unasked: Predictions
    doubt: Doubt = Doubt(0.5)
    filters: str | None = None

    def with_pixels(self, pixels: bytes) -> bytes:
        """Return the content of a row of the ring."""
        head = records.encode(self)
        return len(head).to_bytes(4, "little") + head + pixels

    @staticmethod
    def with_its_pixels(data: bytes) -> tuple[AuditRow, bytes]:
        """Return the AuditRow and the pixels from the content of a row of the ring."""
        end = 4 + int.from_bytes(data[:4], "little")
        return records.decode(data[4:end], AuditRow), data[end:]


def seen_in(objects: Sequence[Object]) -> Predictions:
    """Return objects of a result as predictions, for comparison."""
    boxes = tuple(each.box for each in objects)
    scores = tuple(each.score for each in objects)
    class_ids = tuple(each.class_id for each in objects)
    return Predictions(boxes, scores, class_ids, ())


def differs(served: Predictions, true: Predictions) -> bool:
    """Return True if the numbers of objects by class differ."""
    return Counter(served.class_ids) != Counter(true.class_ids)


# -- Queries about drawn frames. The ring keeps their pixels until they are answered.


_ROW_BYTES: Final = 32 * 1024  # for an AuditRow with twice the boxes of 256 objects


class Audited(NamedTuple):
    """The published result of a drawn frame, and the heavy pass's answer; None: lost."""

    row: AuditRow | None
    true: Predictions | None


class _OpenQuery(NamedTuple):
    """The row of a drawn frame, and the object filters of its source when it was published.

    Both sides of the comparison must have the same filters: one that is added later would hide an
    object that the published result lacks.
    """

    row: AuditRow
    filters: Mapping[str, ObjectFilter]


class AuditQueries:
    """The audit queries of a worker's sources. One thread."""

    def __init__(self, asks: AskPort, context: Context) -> None:
        self._asks, self._context = asks, context
        self._open: dict[tuple[str, Position], _OpenQuery] = {}

    def open(self, item: Item, row: AuditRow, after: RingRef | None) -> RingRef | None:
        """Send the query about a drawn frame; return the reference of its row in the ring.

        Returns None if the pixels are lost. Raises FrameLost if a file's frame will be decoded
        again.
        """
        form = item.record.form
        try:
            pixels = self._pixels(item)
        except FrameLost as lost:
            if not (lost.final or self._context.live(item.source)):
                raise
            return None
        filters = self._context.filters(item.source)
        row = msgspec.structs.replace(row, filters=digest_of(dropping(filters)))
        rows = self._ring(item.source, form).write(item.position, row.with_pixels(pixels), after)
        self._ask(item.source, item.position, form, _OpenQuery(row, filters), pixels)
        return rows

    def _pixels(self, item: Item) -> bytes:
        if item.record.undecoded:
            return self._context.undecoded_pixels(item)
        with self._context.pixels(item) as view:
            return bytes(view)

    def answer(self, source: str, obligation: Obligation, rows: RingRef | None) -> Audited | None:
        """Return the outcome of an audit; None while an answer may come.

        After a restart, the query is sent again with the pixels from the ring. If the source's
        object filters have changed since, the audit is lost.
        """
        position, form = obligation.position, obligation.form
        question = QueryId(source, position, exact=True)
        query = self._open.get((source, position))
        if query is None or not self._asks.knows(question):
            if not self._asks.has_room(form.nbytes, urgent=False):
                return None
            stored = self._from_ring(source, obligation, rows)
            if stored is None:
                return Audited(None, None)
            row, pixels = stored
            if query is None:
                query = _OpenQuery(row, self._context.filters(source))
            if row.filters not in (None, digest_of(dropping(query.filters))):
                return Audited(None, None)
            self._ask(source, position, form, query, pixels)
        answer = self._asks.answer(question)
        if answer is None:
            return None
        if isinstance(answer, Predictions):
            size = form.width, form.height
            answer = filtered(answer, query.filters, size, query.row.served)
            return Audited(query.row, answer)
        return Audited(query.row, None)

    def keep(self, source: str, still_open: set[Position]) -> None:
        """Forget the queries of a source's audits that are not in `still_open`."""
        closed = [key for key in self._open if key[0] == source and key[1] not in still_open]
        for key in closed:
            del self._open[key]
            self._asks.forget(QueryId(*key, exact=True))

    def _ask(
        self, source: str, position: Position, form: Form, query: _OpenQuery, pixels: bytes
    ) -> None:
        self._open[source, position] = query
        question = QueryId(source, position, exact=True)
        self._asks.ask(Query(question, form, pixels, None, urgent=False))

    def _ring(self, source: str, form: Form) -> RingPort:
        return self._context.ring(source, MAX_OPEN, form.nbytes + _ROW_BYTES)

    def _from_ring(
        self, source: str, obligation: Obligation, rows: RingRef | None
    ) -> tuple[AuditRow, bytes] | None:
        if rows is None:
            return None
        contents = self._ring(source, obligation.form).read(rows)
        if contents is None:
            return None
        age = rows.row - obligation.row  # rows behind the newest, which is last in `contents`
        if age >= len(contents):
            return None
        return AuditRow.with_its_pixels(contents[-1 - age])
