"""Corrections: apply an answer of the heavy pass to the frames after it.

An answer is about one frame. In the frames after it

- an object that the light network detects again, by its track or its place, gets the class and
  score of the heavy pass;
- an object that the heavy pass did not detect is left out; if it has a track, the stage windows
  decides about it;
- an object that only the heavy pass detected stays in its place until the place changes. Without a
  track, it ends earlier: with the next look of the light network at its place, or with any change
  there, because nothing follows it.

Each answer replaces all corrections before it. A mean over several answers would follow a change
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from framegate.models import boxes as nms
from framegate.models import coco, matching
from framegate.models.boxes import Boxes
from framegate.pipeline.contracts.results import Object, Origin, Untracked
from framegate.stages.detections import Box, Detections

# -- An object of an answer and its current place, in few bytes.


Whole4 = tuple[int, int, int, int]

_OTHER_SIZE: Final = 1.5  # factor of the area from which an object looks different
_NOT_ASIDE: Final = (0, 0, 0, 0)


class Correction(msgspec.Struct, frozen=True, array_like=True):
    """The result of the heavy pass for an object, and the object's current place.

    track     track of the light network, 0 without a track
    class_id  class from the heavy pass, or from the light network if the heavy pass missed it
    seen_as   class from the light network in this frame, -1 if it does not detect the object
    score     score of the heavy pass in ten-thousandths; 0: it did not detect the object
    box       in this frame, tenths of a source pixel
    aside     edges of the heavy box minus those of the light box, in thousandths of the sides of
              the light box
    area      square pixels at the time of the answer
    was_moved  its track had moved the light box then, so `aside` contains the error of that motion:
              the next detected box replaces it
    """

    track: int
    class_id: int
    seen_as: int
    score: int
    box: Whole4
    aside: Whole4
    area: int
    was_moved: bool = False

    @property
    def place(self) -> Box:
        """Return the box in source pixels."""
        left, top, right, bottom = self.box
        return left / 10, top / 10, right / 10, bottom / 10

    @property
    def growth(self) -> float:
        """Return the area, divided by the area at the time of the answer."""
        return _area(self.box) / self.area

    @property
    def looks_alike(self) -> bool:
        """Return True if the size is close to that at the time of the answer."""
        return 1 / _OTHER_SIZE < self.growth < _OTHER_SIZE

    def moved_to(self, light: Object) -> Correction:
        """Return the correction with the box that follows from the light network's object."""
        left, top, right, bottom = light.box
        width = right - left
        height = bottom - top
        aside, area, was_moved = self.aside, self.area, self.was_moved
        if was_moved and light.origin == "detected":
            aside, area, was_moved = _NOT_ASIDE, _area(_tenths(light.box)), False
        box = _tenths(
            (
                left + aside[0] * width / 1000,
                top + aside[1] * height / 1000,
                right + aside[2] * width / 1000,
                bottom + aside[3] * height / 1000,
            )
        )
        track = light.track or 0
        return msgspec.structs.replace(
            self, track=track, seen_as=light.class_id, box=box,
            aside=aside, area=area, was_moved=was_moved,
        )  # fmt: skip

    def as_object(self, origin: Origin) -> Object:
        """Return the correction as an object of a result."""
        untracked: Untracked | None = None
        if not self.track:
            untracked = "new"
            if self.seen_as < 0:
                untracked = "heavy"
        return Object(
            track=self.track or None,
            label=coco.LABELS[self.class_id],
            class_id=self.class_id,
            score=self.score / 10_000,
            box=self.place,
            origin=origin,
            untracked=untracked,
        )


def seen_by(heavy: Boxes) -> list[Correction]:
    """Return the boxes of the heavy pass, without matches among the light network's objects."""
    rows = zip(heavy.xyxy.tolist(), heavy.scores.tolist(), heavy.class_ids.tolist(), strict=True)
    corrections = []
    for xyxy, score, class_id in rows:
        box = _tenths(xyxy)
        stored_score = max(1, ten_thousandths(score))
        corrections.append(Correction(0, class_id, -1, stored_score, box, _NOT_ASIDE, _area(box)))
    return corrections


def beside(correction: Correction, light: Object) -> Correction:
    """Return a heavy box, matched with the light network's object."""
    left, top, right, bottom = light.box
    place = correction.place
    width = max(right - left, 1.0)
    height = max(bottom - top, 1.0)
    aside = (
        round(1000 * (place[0] - left) / width),
        round(1000 * (place[1] - top) / height),
        round(1000 * (place[2] - right) / width),
        round(1000 * (place[3] - bottom) / height),
    )
    track = light.track or 0
    was_moved = light.origin == "moved"
    return msgspec.structs.replace(
        correction, track=track, seen_as=light.class_id, aside=aside, was_moved=was_moved
    )


def unseen(light: Object) -> Correction:
    """Return the correction for an object that the heavy pass did not detect."""
    box = _tenths(light.box)
    class_id = light.class_id
    return Correction(light.track or 0, class_id, class_id, 0, box, _NOT_ASIDE, _area(box))


def ten_thousandths(score: float) -> int:
    """Return a score, 0..1, in ten-thousandths."""
    return round(10_000 * score)


def _tenths(box: Sequence[float]) -> Whole4:
    left, top, right, bottom = (round(10 * edge) for edge in box)
    return left, top, right, bottom


def _area(box: Whole4) -> int:
    return max(1, (box[2] - box[0]) * (box[3] - box[1]) // 100)


_MEAN_OVER: Final = 3.0  # the time constant of an exponential mean, in answers
_MAX_SURPRISE: Final = 3.0  # objects of an answer that count as surprise


class Unrest(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The activity of a source since the last answer, or since the start of the epoch.

    stirred   sum over the frames of the changed share of the picture, 0..1
    flips     frames in which an object appeared or disappeared, or the light network detected or
              lost a known object
    surprise  0..3, mean over the last answers of the number of objects in which an answer differed
              from the result without it
    """

    stirred: float = 0.0
    flips: int = 0
    surprise: float = 1.0

    def after(self, share_changed: float, has_flipped: bool) -> Unrest:
        """Return the unrest one frame later."""
        stirred = round(self.stirred + share_changed, 4)
        return Unrest(stirred, self.flips + has_flipped, self.surprise)

    def answered(self, differing: int) -> Unrest:
        """Return the unrest after an answer that differs in `differing` objects."""
        step = (min(float(differing), _MAX_SURPRISE) - self.surprise) / _MEAN_OVER
        return Unrest(surprise=round(self.surprise + step, 3))


MAX_AGE_S: Final = 10.0  # an older answer corrects nothing
MAX_KNOWN: Final = 64
MAX_NEW: Final = 16
_SAME: Final = 0.4  # lowest IoU of two boxes of the same object
_CHANGED: Final = 0.25  # changed share of a place above which an undetected object is gone
_LOOKED: Final = 0.5  # share of a place in one look from which the light network looked at it
_SAME_TRACK: Final = 3.0  # worth of a common track, above that of overlap and class


class Corrections(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The corrections of a source by the last answer of the heavy pass.

    at_s    time of that answer on the source's clock, seconds; None: no answer so far
    known   the objects of that answer
    new     scores, in ten-thousandths, of the objects of this frame that the answer does not cover
    unrest  activity since the answer
    answered    number of objects of that answer
    was_moving  the picture changed in the frame of that answer
    """

    at_s: float | None = None
    known: tuple[Correction, ...] = ()
    new: tuple[int, ...] = ()
    unrest: Unrest = Unrest()
    answered: int = 0
    was_moving: bool = False

    def after(
        self, known: Sequence[Correction], new: Sequence[Object], share: float
    ) -> Corrections:
        """Return the corrections one frame later.

        known  the corrections that are still valid
        new    objects of the frame that the answer does not cover
        share  changed share of the frame's picture, 0..1
        """
        scores = sorted((ten_thousandths(light.score) for light in new), reverse=True)[:MAX_NEW]
        seen_before = [correction.seen_as >= 0 for correction in self.known]
        seen_now = [correction.seen_as >= 0 for correction in known]
        has_flipped = seen_now != seen_before or len(scores) != len(self.new)
        unrest = self.unrest.after(share, has_flipped)
        return msgspec.structs.replace(self, known=tuple(known), new=tuple(scores), unrest=unrest)


def served(
    known: Corrections, detections: Detections, now_s: float
) -> tuple[tuple[Object, ...], Corrections]:
    """Return the objects of a frame without an answer, and the corrections after it. Pure.

    The objects have the highest score first.
    """
    share = 0.0
    if detections.changes is not None:
        share = detections.changes.share
    if known.at_s is None or now_s - known.at_s > MAX_AGE_S:
        return detections.objects, known.after((), detections.objects, share)
    rows = _detected_again(known.known, detections.objects)
    new = [light for row, light in enumerate(detections.objects) if row not in rows]
    # Each correction either stays valid, with its object, or ends. If it ends because its object
    # changed, the light network's object is new.
    objects: list[Object] = []
    valid: list[Correction] = []
    for correction, row in zip(known.known, rows, strict=True):
        if row is None:
            if not _has_ended(correction, detections):
                kept = msgspec.structs.replace(correction, seen_as=-1)
                valid.append(kept)
                objects.append(kept.as_object("carried"))
            continue
        light = detections.objects[row]
        moved = correction.moved_to(light)
        if not moved.looks_alike:
            new.append(light)
            continue
        valid.append(moved)
        objects.append(moved.as_object(light.origin))
    objects = _suppressed([each for each in objects if each.score] + new)
    return tuple(objects), known.after(valid, new, share)


def learned(
    known: Corrections, detections: Detections, heavy: Boxes, now_s: float
) -> tuple[Corrections, tuple[Object, ...]]:
    """Return the corrections by a new answer, and its boxes as objects. Pure.

    known       the corrections before the frame that the answer is about
    detections  of that frame, from detect
    heavy       the answer
    """
    seen = seen_by(heavy)
    rows = _matched(_worth(seen, detections.objects))
    expected, before = served(known, detections, now_s)
    # A heavy box without a light object may continue the track of an earlier heavy box.
    carried = [each for each in before.known if each.seen_as < 0 and each.track and each.score]
    carried_rows = _matched(_worth(seen, [each.as_object("carried") for each in carried]))
    corrections: list[Correction] = []
    for correction, row, carried_row in zip(seen, rows, carried_rows, strict=True):
        if row is not None:
            correction = beside(correction, detections.objects[row])
        elif carried_row is not None and carried[carried_row].class_id == correction.class_id:
            track = carried[carried_row].track
            correction = msgspec.structs.replace(correction, track=track)
        corrections.append(correction)
    objects = tuple(correction.as_object("escalated") for correction in corrections)
    missed = [light for row, light in enumerate(detections.objects) if row not in rows]
    corrections += map(unseen, missed)
    unrest = known.unrest.answered(_differing(expected, objects))
    after = Corrections(
        round(now_s, 3),
        tuple(corrections[:MAX_KNOWN]),
        unrest=unrest,
        answered=len(seen),
        was_moving=detections.changes is not None and detections.changes.share > 0,
    )
    return after, objects


def _suppressed(objects: Sequence[Object]) -> list[Object]:
    """Return the objects after non-maximum suppression, highest score first."""
    scores = np.array([each.score for each in objects], np.float32)
    return [objects[row] for row in nms.suppress(_boxes(objects), scores)]


def _differing(objects: Sequence[Object], others: Sequence[Object]) -> int:
    """Return the number of objects of both sides without a match of the same class and place."""
    same_class = _classes(objects)[:, None] == _classes(others)
    overlap = nms.iou(_boxes(objects), _boxes(others))
    worth = np.where(same_class & (overlap >= matching.MIN_IOU), overlap, np.float32(0))
    matches = sum(row is not None for row in _matched(worth))
    return len(objects) + len(others) - 2 * matches


def _boxes(objects: Sequence[Object]) -> npt.NDArray[np.float32]:
    return np.array([each.box for each in objects], np.float32).reshape(-1, 4)


def _classes(objects: Sequence[Object]) -> npt.NDArray[np.int32]:
    return np.array([each.class_id for each in objects], np.int32)


def _has_ended(correction: Correction, detections: Detections) -> bool:
    """Return True if a correction ends that no object of the light network continues.

    An object with a track has evidence of the light network. Without a track, the heavy pass is
    the only evidence, so a look that does not confirm the object ends it.
    """
    only_heavy = correction.score > 0 and not correction.track
    if only_heavy and detections.share_looked_at(correction.place) >= _LOOKED:
        return True
    least_change = _CHANGED
    if only_heavy:
        least_change = 0.0
    return _has_changed(correction, detections, least_change)


def _has_changed(correction: Correction, detections: Detections, least: float) -> bool:
    """Return True if more than the share `least` of a correction's place changed, or if no gate can
    show that it did not.
    """
    if detections.reason == "every_frame":
        return True
    changes = detections.changes
    return changes is not None and changes.share_of(correction.place) > least


def _detected_again(known: Sequence[Correction], objects: Sequence[Object]) -> list[int | None]:
    """Return the index of each correction's object, by track or by place; None without a match."""
    if not known or not objects:
        return [None] * len(known)
    worth = _worth(known, objects)
    for i, correction in enumerate(known):
        for j, light in enumerate(objects):
            if correction.track and correction.track == light.track:
                worth[i, j] = _SAME_TRACK
    return _matched(worth)


def _worth(known: Sequence[Correction], objects: Sequence[Object]) -> npt.NDArray[np.float32]:
    """Return the worth of each pair, float32 (N, M): 0 without overlap, else IoU + same class."""
    places = np.array([correction.place for correction in known], np.float32).reshape(-1, 4)
    overlap = nms.iou(places, _boxes(objects))
    seen_as = np.array([correction.seen_as for correction in known], np.int32)
    class_ids = np.array([correction.class_id for correction in known], np.int32)
    same_class = np.where(seen_as < 0, class_ids, seen_as)[:, None] == _classes(objects)
    return np.where(overlap >= _SAME, overlap + same_class, np.float32(0))


def _matched(worth: npt.NDArray[np.float32]) -> list[int | None]:
    """Return the column of each row, best pairs first; None for a row without a match."""
    rows, columns = matching.by_worth(worth)
    column_of = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [column_of.get(row) for row in range(len(worth))]
