"""The calm rule: which boxes are shown, and as what, from all that their tracks were seen as.

A box whose score lies near the threshold comes and goes with the noise of the camera. A track has
been looked at many times; the mean of its scores moves far less than each of them, and so does the
class that most of its score went to. A box is shown while that mean is above the threshold.
A second, lower threshold for what is already shown does not do this: it keeps what is false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.boxes import Boxes
from models.bytetrack import TrackSettings
from models.calm_state import CLASSES, NO_CLASS, CalmState

IntArray = npt.NDArray[np.int32]
IndexArray = npt.NDArray[np.intp]

_ROUNDING_S: Final = 0.0005


@dataclass(frozen=True, slots=True)
class CalmSettings:
    """Numbers of the rule, chosen with `benchmarks.calm` on three clips and frozen.

    candidate   0..1, least score of a box that the rule is given: evidence, even if never shown
    shown       0..1, a box is shown when its track's mean score is above it
    looks       1..255, looks that a mean remembers: after as many it forgets, exponentially
    own         0..1, what a box's own score weighs beside its track's mean
    max_lost_s  seconds of pts after which an unseen track is forgotten, as in TrackSettings
    """

    candidate: float = 0.2
    shown: float = 0.31
    looks: int = 8
    own: float = 0.0
    max_lost_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.looks <= 255:
            raise ValueError(f"looks: {self.looks}; allowed: 1 to 255")


CALM: Final = CalmSettings()
TRACKS: Final = TrackSettings(high=0.31, low=CALM.candidate, start=0.31, min_hits=2)


def step(
    state: CalmState,
    boxes: Boxes,
    ids: IntArray,
    looked: npt.NDArray[np.bool_],
    pts: float | None,
    settings: CalmSettings = CALM,
) -> tuple[CalmState, Boxes, IndexArray]:
    """Take in one frame; return the new state, the boxes to show, and their rows in `boxes`.

    boxes    all with a score of at least `settings.candidate`
    ids      int32 (N,)  the track of each from `bytetrack.step` (0: none), each at most once
    looked   bool (N,)   False: carried or moved along, which is no new evidence
    pts      seconds, or None where unknown (then nothing is forgotten for age)

    Shown boxes carry the score and the class of their track, highest score first. A box without a
    track is shown as it is, by its own score. A track that this frame should have seen and did not
    counts as seen with a score of 0. A pure function, the same bits from equal input.
    """
    rows = np.flatnonzero(ids > 0)
    memory = _Memory.of(state, ids[rows], pts, settings)
    places = np.searchsorted(memory.ids, ids[rows])
    memory.lost_s[places] = 0
    still = np.zeros(len(memory.ids), np.bool_)
    still[places[~looked[rows]]] = True
    memory.forget(~still, settings.looks)
    for row, place in zip(rows[looked[rows]], places[looked[rows]], strict=True):
        memory.vote(place, int(boxes.class_ids[row]), boxes.scores[row])
    scores, class_ids = boxes.scores.copy(), boxes.class_ids.copy()
    votes = memory.votes[places]
    own = np.float32(settings.own)
    scores[rows] = own * scores[rows] + (1 - own) * votes.sum(axis=1)
    class_ids[rows] = memory.classes[places, votes.argmax(axis=1)]
    shown = np.flatnonzero(scores > np.float32(settings.shown))
    shown = shown[np.argsort(-scores[shown], kind="stable")]
    calmed = Boxes(boxes.xyxy[shown], scores[shown], class_ids[shown])
    return memory.as_state(), calmed, shown


@dataclass(slots=True)
class _Memory:
    """The rows of a state while a step works on them."""

    pts: float | None
    ids: IntArray
    lost_s: npt.NDArray[np.float32]
    looks: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    votes: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls, state: CalmState, ids: IntArray, pts: float | None, settings: CalmSettings
    ) -> _Memory:
        """What is still remembered, and an empty row for each track that is new."""
        both = (state.pts, pts)
        elapsed = max(both[1] - both[0], 0) if both[0] is not None and both[1] is not None else 0
        lost_s = state.lost_s + np.float32(elapsed)
        kept = (lost_s <= settings.max_lost_s + _ROUNDING_S) | np.isin(state.ids, ids)
        new = np.setdiff1d(ids, state.ids[kept])
        n = len(new)
        all_ids = np.concatenate([state.ids[kept], new]).astype(np.int32)
        order = np.argsort(all_ids)
        return cls(
            max((t for t in both if t is not None), default=None),
            all_ids[order],
            np.concatenate([lost_s[kept], np.zeros(n, np.float32)])[order],
            np.concatenate([state.looks[kept], np.zeros(n, np.uint8)])[order],
            np.concatenate([state.classes[kept], np.full((n, CLASSES), NO_CLASS, np.uint8)])[order],
            np.concatenate([state.votes[kept], np.zeros((n, CLASSES), np.float32)])[order],
        )

    def forget(self, rows: npt.NDArray[np.bool_], most: int) -> None:
        """One more look at these tracks: what was seen before weighs less."""
        self.looks[rows] = np.minimum(self.looks[rows], most - 1) + 1
        self.votes[rows] *= (1 - np.float32(1) / self.looks[rows])[:, None].astype(np.float32)

    def vote(self, place: int, class_id: int, score: np.float32) -> None:
        """This look saw the track as `class_id`; it takes the least vote's place if it is new."""
        known = np.flatnonzero(self.classes[place] == class_id)
        slot = int(known[0]) if len(known) else int(self.votes[place].argmin())
        if not len(known):
            self.classes[place, slot], self.votes[place, slot] = class_id, 0
        self.votes[place, slot] += score / np.float32(self.looks[place])

    def as_state(self) -> CalmState:
        """The rows, to be kept."""
        return CalmState(self.pts, self.ids, self.lost_s, self.looks, self.classes, self.votes)
