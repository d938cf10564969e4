"""What to believe of boxes that were found in parts of a picture, and what stays of those known.

Pure functions. A box that touches an inner border of its part may be half an object: it is not
believed, and the place is named so that the next look at it is larger. What was known inside a
part and is not found again is gone; what was known elsewhere stays.
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


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """When boxes are believed.

    border      model pixels; a box that ends so near to an inner border touches it
    inside      0..1, a known box with that share of its area in a part was looked at there
    same        0..1, boxes above this IoU are one object, whatever they were taken for
    part_of     0..1, a found box with that share of its area in a known one that only partly
                lies in the look is a piece of it
    least       0..1, a cut box with a lower score is not worth another look
    reach       a cut box is assumed to go on behind the border for that share of its length
    """

    border: float = 4.0
    inside: float = 0.9
    same: float = nms.SAME
    part_of: float = 0.8
    least: float = 0.31
    reach: float = 0.5


DEFAULT = MergeSettings()
_NOWHERE: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What is true of a picture after some parts of it were looked at.

    boxes      highest score first
    is_new     bool (N,), found now; else known and kept as it was
    known_row  int32 (N,), the known box that it is or goes on from; -1: none
    cut        float32 (K, 4), source pixels: places to look at again, with more around them

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
    found: Sequence[Boxes],
    looks: Sequence[Crop],
    size: tuple[int, int],
    long_side: int,
    settings: MergeSettings = DEFAULT,
    judged: BoolArray | None = None,
) -> Merged:
    """`found`, what each of `looks` at a (width, height) picture found, among what is `known`.

    All boxes are in source pixels, and so is the answer. With no look everything known stays; a
    look at the whole replaces everything. `judged`, bool (N,), tells what of the known the looks
    were made for: the rest stays (None: all). Raises ArrayMismatch when there are more or fewer
    `found` than `looks`.
    """
    if len(found) != len(looks):
        raise ArrayMismatch("found", f"{len(looks)} sets of boxes, one a look", f"{len(found)}")
    if not looks:
        rows = np.arange(len(known), dtype=np.int32)
        return Merged(known, np.zeros(len(known), np.bool_), rows, _NOWHERE)
    areas = np.array([looked_at(look, size, long_side) for look in looks])
    near = settings.border / (inner_size(*size, long_side)[0] / size[0])
    parts = zip(found, areas, strict=True)
    at_seam = np.concatenate([_ends_at_seam(b.xyxy, area, size, near) for b, area in parts])
    everything, cut = together(found), np.asarray(at_seam.any(axis=1), np.bool_)
    fresh = everything.take(~cut)
    fresh = fresh.take(nms.suppress(fresh.xyxy, fresh.scores, settings.same))
    seen = _share(known.xyxy, areas).max(axis=1, initial=0) >= settings.inside
    elsewhere = ~seen if judged is None else ~(seen & judged)
    loose, doubted = _doubts(everything.take(cut), fresh, known, elsewhere, settings)
    fresh = fresh.take(~(_part_of(fresh, known, settings) & elsewhere).any(axis=1))
    is_same = _same(fresh, known, settings.same)
    held = (elsewhere | doubted) & ~is_same.any(axis=0)
    again = np.flatnonzero(cut)[loose]
    again = again[everything.scores[again] >= np.float32(settings.least)]
    beyond = _beyond(everything.xyxy[again], at_seam[again], size, settings.reach)
    return _merged(known, held, fresh, is_same, beyond)


def replaced(known: Boxes, found: Boxes, settings: MergeSettings = DEFAULT) -> Merged:
    """As `merge` after one look at the whole: what it found takes the place of what was known."""
    follows = _followed(_same(found, known, settings.same))
    return Merged(found, np.ones(len(found), np.bool_), follows, _NOWHERE)


def _doubts(
    pieces: Boxes, fresh: Boxes, known: Boxes, elsewhere: BoolArray, settings: MergeSettings
) -> tuple[BoolArray, BoolArray]:
    """Return which pieces are of nothing found whole, and which known boxes they speak for.

    A piece of something found whole in another look, or of something known that was not looked at
    as a whole, is no news. A piece of what was looked at: the known box is the better answer.
    """
    if not len(pieces):
        return np.zeros(0, np.bool_), np.zeros(len(known), np.bool_)
    of_known = _part_of(pieces, known, settings)
    explained = _part_of(pieces, fresh, settings).any(axis=1)
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
    """For each found box (N, M) the known one that it is, -1 for none: int32 (N,)."""
    if not is_same.shape[1]:
        return np.full(len(is_same), -1, np.int32)
    return np.where(is_same.any(axis=1), is_same.argmax(axis=1), -1).astype(np.int32)


def _ends_at_seam(
    xyxy: FloatArray, area: FloatArray, size: tuple[int, int], reach: float
) -> BoolArray:
    """Return which sides of boxes (N, 4) end within `reach` of a seam of `area`: (N, 4)."""
    border = np.array([0, 0, *size], np.float32)
    near: BoolArray = (np.abs(xyxy - area) < reach) & (area != border)
    return near


def _share(a: FloatArray, b: FloatArray) -> FloatArray:
    """Of each box of `a` (N, 4), the share of its area in each of `b` (M, 4): (N, M)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - low, 0)
    share: FloatArray = sides.prod(axis=2) / np.maximum(nms.area(a), 1e-6)[:, None]
    return share


def _part_of(pieces: Boxes, whole: Boxes, settings: MergeSettings) -> BoolArray:
    """Return which of `pieces` lie in which of `whole`, of the same class: (N, M)."""
    same_class = pieces.class_ids[:, None] == whole.class_ids[None, :]
    inside: BoolArray = (_share(pieces.xyxy, whole.xyxy) >= settings.part_of) & same_class
    return inside


def _same(fresh: Boxes, known: Boxes, least: float) -> BoolArray:
    same: BoolArray = nms.iou(fresh.xyxy, known.xyxy) > least
    return same


def _beyond(
    xyxy: FloatArray, at_seam: BoolArray, size: tuple[int, int], reach: float
) -> FloatArray:
    """Return boxes made longer by `reach` of their length where they end at a seam."""
    if not len(xyxy):
        return _NOWHERE
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2) * np.array([-1, -1, 1, 1], np.float32)
    limit = np.array(size * 2, np.float32)
    longer: FloatArray = np.clip(xyxy + np.where(at_seam, sides * np.float32(reach), 0), 0, limit)
    return longer.astype(np.float32)
