"""Merge boxes that were detected in parts of a picture with the known boxes.

Pure functions. A box that touches an inner border of its part may be half an object: it is not
accepted, and its place is returned so that the next look is larger. A known box inside a part that
is not detected again is removed; known boxes elsewhere stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models import boxes as nms
from framegate.models.boxes import BoolArray, Boxes, FloatArray, IntArray, read_only, together
from framegate.models.errors import ArrayMismatch
from framegate.models.gate.crops import Crop, looked_at
from framegate.models.preprocess import inner_size

_BORDER: Final = 4.0  # model pixels; a box that ends closer to an inner border touches it
_INSIDE: Final = 0.9  # a known box with this share of its area in a look was looked at
# A detected box with this share of its area in a known box, which is only partly in the look, is a
# piece of it.
_PART_OF: Final = 0.8
_LEAST: Final = 0.31  # a cut box with a lower score causes no other look
# A cut box is assumed to continue behind the border by this share of its length.
_REACH: Final = 0.5
_NOWHERE: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The boxes of a picture after looks at some parts.

    boxes      highest score first
    is_new     bool (N,)  detected now; False: known and kept unchanged
    known_row  int32 (N,)  row of the known box that it is or continues; -1: none
    cut        float32 (K, 4)  source pixels: places that need a larger look

    Raises ArrayMismatch.
    """

    boxes: Boxes
    is_new: BoolArray
    known_row: IntArray
    cut: FloatArray

    def __post_init__(self) -> None:
        n = len(self.boxes)
        for name, dtype, shape in (
            ("is_new", np.bool_, (n,)),
            ("known_row", np.int32, (n,)),
            ("cut", np.float32, (None, 4)),
        ):
            object.__setattr__(self, name, read_only(name, getattr(self, name), dtype, shape))


def merge(
    known: Boxes,
    detected: Sequence[Boxes],
    looks: Sequence[Crop],
    size: tuple[int, int],
    long_side: int,
    judged: BoolArray | None = None,
) -> Merged:
    """Return the known boxes, updated by the boxes that each look detected.

    known     boxes before, in source pixels
    detected  boxes of each look, in source pixels
    looks     the parts of the picture that were looked at
    size      (width, height) of the picture
    judged    bool (N,)  known boxes that the looks may remove; None: all

    Without a look all known boxes stay; a look at the whole picture replaces all. Raises
    ArrayMismatch if `detected` and `looks` differ in length.
    """
    if len(detected) != len(looks):
        raise ArrayMismatch("detected", f"{len(looks)} sets of boxes", f"{len(detected)}")
    if not looks:
        rows = np.arange(len(known), dtype=np.int32)
        return Merged(known, np.zeros(len(known), np.bool_), rows, _NOWHERE)
    areas = np.array([looked_at(look, size, long_side) for look in looks])
    near = _BORDER / (inner_size(*size, long_side)[0] / size[0])
    parts = zip(detected, areas, strict=True)
    at_seam = np.concatenate([_ends_at_seam(b.xyxy, area, size, near) for b, area in parts])
    everything = together(detected)
    cut = np.asarray(at_seam.any(axis=1), np.bool_)
    fresh = everything.take(~cut)
    fresh = fresh.take(nms.suppress(fresh.xyxy, fresh.scores, nms.SAME))
    looked = _share(known.xyxy, areas).max(axis=1, initial=0) >= _INSIDE
    if judged is not None:
        looked = looked & judged
    elsewhere = ~looked
    loose, doubted = _doubts(everything.take(cut), fresh, known, elsewhere)
    fresh = fresh.take(~(_part_of(fresh, known) & elsewhere).any(axis=1))
    is_same = _same(fresh, known)
    held = (elsewhere | doubted) & ~is_same.any(axis=0)
    again = np.flatnonzero(cut)[loose]
    again = again[everything.scores[again] >= np.float32(_LEAST)]
    beyond = _beyond(everything.xyxy[again], at_seam[again], size, _REACH)
    return _merged(known, held, fresh, is_same, beyond)


def replaced(known: Boxes, detected: Boxes) -> Merged:
    """Return the result of a whole look: the detected boxes replace all known boxes."""
    follows = _followed(_same(detected, known))
    return Merged(detected, np.ones(len(detected), np.bool_), follows, _NOWHERE)


def _doubts(
    pieces: Boxes, fresh: Boxes, known: Boxes, elsewhere: BoolArray
) -> tuple[BoolArray, BoolArray]:
    """Return the pieces that no whole box explains, and the known boxes that pieces confirm.

    A piece is explained by a box that another look detected whole, or by a known box outside of
    the looks. If the known box was looked at, a piece of it confirms it, because the known box is
    the better answer.
    """
    if not len(pieces):
        return np.zeros(0, np.bool_), np.zeros(len(known), np.bool_)
    of_known = _part_of(pieces, known)
    explained = _part_of(pieces, fresh).any(axis=1)
    explained |= (of_known & elsewhere).any(axis=1)
    loose = np.asarray(~explained, np.bool_)
    return loose, np.asarray((of_known & loose[:, None]).any(axis=0), np.bool_)


def _merged(
    known: Boxes, held: BoolArray, fresh: Boxes, is_same: BoolArray, cut: FloatArray
) -> Merged:
    rows = np.flatnonzero(held)
    boxes = together([fresh, known.take(rows)])
    order = np.argsort(-boxes.scores, kind="stable")
    is_new = np.arange(len(boxes)) < len(fresh)
    known_row = np.concatenate([_followed(is_same), rows.astype(np.int32)])
    return Merged(boxes.take(order), is_new[order], known_row[order], cut)


def _followed(is_same: BoolArray) -> IntArray:
    """Return for each detected box of `is_same` (N, M) its known box, or -1: int32 (N,)."""
    if not is_same.shape[1]:
        return np.full(len(is_same), -1, np.int32)
    return np.where(is_same.any(axis=1), is_same.argmax(axis=1), -1).astype(np.int32)


def _ends_at_seam(
    xyxy: FloatArray, area: FloatArray, size: tuple[int, int], reach: float
) -> BoolArray:
    """Return bool (N, 4): the sides that end within `reach` of an inner border of `area`."""
    border = np.array([0, 0, *size], np.float32)
    near: BoolArray = (np.abs(xyxy - area) < reach) & (area != border)
    return near


def _share(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return (N, M): the share of the area of each box in `a` (N, 4) inside each of `b` (M, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - low, 0)
    share: FloatArray = sides.prod(axis=2) / np.maximum(nms.area(a), 1e-6)[:, None]
    return share


def _part_of(pieces: Boxes, whole: Boxes) -> BoolArray:
    """Return bool (N, M): which of `pieces` lie in which of `whole` with the same class."""
    same_class = pieces.class_ids[:, None] == whole.class_ids[None, :]
    inside: BoolArray = (_share(pieces.xyxy, whole.xyxy) >= _PART_OF) & same_class
    return inside


def _same(fresh: Boxes, known: Boxes) -> BoolArray:
    same: BoolArray = nms.iou(fresh.xyxy, known.xyxy) > nms.SAME
    return same


def _beyond(
    xyxy: FloatArray, at_seam: BoolArray, size: tuple[int, int], reach: float
) -> FloatArray:
    """Return the boxes, extended by `reach` of their length beyond the borders that they touch."""
    if not len(xyxy):
        return _NOWHERE
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2) * np.array([-1, -1, 1, 1], np.float32)
    limit = np.array(size * 2, np.float32)
    longer: FloatArray = np.clip(xyxy + np.where(at_seam, sides * np.float32(reach), 0), 0, limit)
    return longer.astype(np.float32)
