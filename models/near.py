"""What a network answered to nearly the same: found by coarse tiles, decided on every cell.

An approximation: it is served only while checks of it say that it is right, for so long, and is
said to be what it is. Whatever changes a cell's mean by the least of the gate's stated bounds, in
Y, Cb or Cr and beside the exposure, is another picture.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models import coco, gate, nms
from models.boxes import Boxes
from models.cells import Cells
from models.crops import Look
from models.gate import GateSettings
from models.near_view import NearEntry, View, entry_of, nearest, view_of, with_row
from models.recall import Memory
from models.trust import Trust
from models.worth import Worth

MOST_KINDS: Final = 4096  # one that is forgotten begins anew: it has to earn its trust
_CANDIDATES: Final = 3  # views that are compared in full
_CHECKED: Final = 16  # of answers that are trusted, one in so many is computed, too
_SAMPLED: Final = 16  # of frames whose answers are mostly wrong, one in so many is looked up
_SAME_IOU: Final = 0.5


@dataclass(frozen=True, slots=True)
class NearSettings:
    """When it may be served.

    long_side   of the network's input
    shown       0..1, score from which on a box must be found again
    error       0..1, share of answers that may be wrong,
    doubt       0..1, probability with which checks may miss that more are
    most_age_s  for which an answer holds
    classes     that an answer may name, by id
    """

    long_side: int
    shown: float
    error: float
    doubt: float = 0.05
    most_age_s: float = 600.0
    classes: Collection[int] = range(len(coco.LABELS))


@dataclass(slots=True)
class NearCounts:
    """What came of frames so far.

    served          answered by what was known
    checked, wrong  known as well, but computed; of these, those where that said something else
    misses          not known
    skipped         not looked up, as hits are rare or wrong
    """

    served: int = 0
    checked: int = 0
    wrong: int = 0
    misses: int = 0
    skipped: int = 0


@dataclass(slots=True)
class Kind:
    """Frames of one size from one source: what holds for them need not hold for others.

    asked, hits  frames so far, and those of which an answer was known
    """

    trust: Trust = field(default_factory=Trust)
    asked: int = 0
    hits: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Looks at a frame, and what is known of them.

    known   of each look, with its key; None unless all are known
    serves  whether `boxes` may be told without the network
    age_s   of the oldest
    now     UNIX seconds
    """

    kind: Kind
    views: tuple[View, ...]
    known: tuple[tuple[bytes, NearEntry], ...] | None
    serves: bool
    now: float

    @property
    def boxes(self) -> list[Boxes]:
        """What is known of each look."""
        return [entry.boxes for _, entry in self.known or ()]

    @property
    def age_s(self) -> float:
        """How old the oldest of it is."""
        return self.now - min(entry.made for _, entry in self.known or ())


class Near:
    """Answers of one detector to what a group's pictures looked like. One thread."""

    def __init__(
        self, memory: Memory, facts: bytes, settings: NearSettings, using: GateSettings
    ) -> None:
        """facts: all that decides an answer but the picture; using: whose bounds hold."""
        self.counts = NearCounts()
        self.worth = Worth()
        self.kinds: dict[tuple[str, int, int], Kind] = {}
        self._memory, self._facts, self._settings, self._gate = memory, facts, settings, using

    def see(
        self, cells: Cells, looks: Sequence[Look], now: float, source: str = ""
    ) -> Sight | None:
        """What is known of looks at a source's picture; None where it is not asked."""
        kind = self._kind(source, cells)
        kind.asked += 1
        # While it is mostly wrong a sample is checked, which may win trust back.
        is_sampled = kind.trust.standing == "lost" and kind.asked % _SAMPLED != 0
        if is_sampled or not self.worth.asks(kind.asked):
            self.counts.skipped += 1
            return None
        side = self._settings.long_side
        views = tuple(view_of(cells, look, side, self._facts) for look in looks)
        known = self._known(views, now)
        self.worth = self.worth.after(known is not None)
        serves = False
        if known is None:
            self.counts.misses += 1
        else:
            kind.hits += 1
            serves = kind.trust.standing == "earned" and kind.hits % _CHECKED != 0
            self.counts.served += serves
        return Sight(kind, views, known, serves, now)

    def _kind(self, source: str, cells: Cells) -> Kind:
        """What is known of such frames; of the kinds that were seen longest ago, nothing."""
        name = source, cells.grid.width, cells.grid.height
        kind = self.kinds.pop(name) if name in self.kinds else Kind()
        self.kinds[name] = kind
        if len(self.kinds) > MOST_KINDS:
            del self.kinds[next(iter(self.kinds))]
        return kind

    @property
    def trusted(self) -> int:
        """Of the kinds of frames, how many are served."""
        return sum(kind.trust.standing == "earned" for kind in self.kinds.values())

    @property
    def is_off(self) -> bool:
        """Whether only a sample is looked up, as hits are rare or wrong."""
        lost = [kind.trust.standing == "lost" for kind in self.kinds.values()]
        return not self.worth.on or (bool(lost) and all(lost))

    def learn(self, sight: Sight, found: Sequence[Boxes]) -> None:
        """What the network found at the looks of a sight that was not served."""
        if sight.known is None:
            for view, boxes in zip(sight.views, found, strict=True):
                self._memory.keep(view.key, _entry(view, boxes, sight.now))
                shelf = self._memory.find(view.shelf) or b""
                self._memory.keep(view.shelf, with_row(shelf, view))
            return
        pairs = zip(sight.boxes, found, strict=True)
        wrong = not all(agree(known, boxes, self._settings.shown) for known, boxes in pairs)
        self.counts.checked += 1
        self.counts.wrong += wrong
        settings = self._settings
        sight.kind.trust = sight.kind.trust.after(wrong, settings.error, settings.doubt)
        for (key, _), view, boxes in zip(sight.known, sight.views, found, strict=True):
            self._memory.keep(key, _entry(view, boxes, sight.now))

    def _known(
        self, views: Sequence[View], now: float
    ) -> tuple[tuple[bytes, NearEntry], ...] | None:
        found = []
        for view in views:
            entry = self._entry_like(view, now)
            if entry is None:
                return None
            found.append(entry)
        return tuple(found)

    def _entry_like(self, view: View, now: float) -> tuple[bytes, NearEntry] | None:
        """The first of the nearest that is like the view in every cell, and not too old."""
        for key in nearest(self._memory.find(view.shelf) or b"", view, _CANDIDATES):
            value = self._memory.find(key)
            entry = (
                None if value is None else entry_of(value, view.cells.grid, self._settings.classes)
            )
            # One of the future was made before a clock was set back: how long ago, nobody knows.
            if entry is None or not 0 <= now - entry.made < self._settings.most_age_s:
                continue
            if gate.alike(entry.levels, view.cells, self._gate):
                return key, entry
        return None


def _entry(view: View, boxes: Boxes, now: float) -> bytes:
    return NearEntry(now, view.cells.levels, boxes).to_bytes()


def agree(a: Boxes, b: Boxes, shown: float) -> bool:
    """Whether each box of either that is shown has one of its class in the other, of its own."""
    return _all_found(a, b, shown) and _all_found(b, a, shown)


def _all_found(wanted: Boxes, there: Boxes, shown: float) -> bool:
    overlap = nms.iou(wanted.xyxy, there.xyxy)
    overlap[wanted.class_ids[:, None] != there.class_ids[None, :]] = 0
    for row in np.flatnonzero(wanted.scores > np.float32(shown)):
        if not len(there) or overlap[row].max() < _SAME_IOU:
            return False
        overlap[:, overlap[row].argmax()] = 0
    return True
