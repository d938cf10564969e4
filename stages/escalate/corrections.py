"""Corrections: what an answer of the heavy pass changes in the frames after it.

An answer is about one frame. In the frames after it

- an object that the light network finds again, by its track or its place, gets the class and score
  that the heavy pass gave it;
- an object that the heavy pass did not find is left out;
- an object that only the heavy pass found stays where it was until its place changes.

Each answer replaces all corrections before it: a mean over several would follow a change later.
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
from framegate.stages.detections import Detections

# -- One object of an answer, and where it is now, in few bytes.


Box = tuple[float, float, float, float]
Whole4 = tuple[int, int, int, int]

_OTHER_SIZE: Final = 1.5  # times the area: an object that grew or shrank so much looks different
_NOT_ASIDE: Final = (0, 0, 0, 0)


class Correction(msgspec.Struct, frozen=True, array_like=True):
    """What the heavy pass found about one object, and where the object is now.

    track     number of the light network's track, 0 without one
    class_id  by the heavy pass; by the light network where the heavy pass found nothing
    seen_as   class by the light network in this frame, -1 if it does not find it
    score     by the heavy pass, in ten-thousandths; 0: it found nothing there
    box       in this frame, tenths of a source pixel
    aside     the heavy box's edges less the light box's, in thousandths of the light box's sides
    area      square pixels at the answer
    """

    track: int
    class_id: int
    seen_as: int
    score: int
    box: Whole4
    aside: Whole4
    area: int

    @property
    def place(self) -> Box:
        """The box in source pixels."""
        left, top, right, bottom = self.box
        return left / 10, top / 10, right / 10, bottom / 10

    @property
    def growth(self) -> float:
        """Its area by that at the answer."""
        return _area(self.box) / self.area

    @property
    def looks_alike(self) -> bool:
        """Whether it is about as large as at the answer."""
        return 1 / _OTHER_SIZE < self.growth < _OTHER_SIZE

    def moved_to(self, light: Object) -> Correction:
        """Return it where the light network finds it in this frame."""
        sides = light.box[2] - light.box[0], light.box[3] - light.box[1]
        box = _tenths(
            [
                edge + aside * sides[i % 2] / 1000
                for i, (edge, aside) in enumerate(zip(light.box, self.aside, strict=True))
            ]
        )
        track = light.track or 0
        return msgspec.structs.replace(self, track=track, seen_as=light.class_id, box=box)

    def as_object(self, origin: Origin) -> Object:
        """Return it as it is published."""
        label, score = coco.LABELS[self.class_id], self.score / 10_000
        untracked = None if self.track else self.untracked
        return Object(
            self.track or None, label, self.class_id, score, self.place, origin, untracked
        )

    @property
    def untracked(self) -> Untracked:
        """Why it has no track, where it has none."""
        return "heavy" if self.seen_as < 0 else "new"


def seen_by(heavy: Boxes) -> list[Correction]:
    """Return the heavy pass's boxes, none of them matched with an object of the light network."""
    rows = zip(heavy.xyxy.tolist(), heavy.scores.tolist(), heavy.class_ids.tolist(), strict=True)
    known = []
    for box, score, class_id in rows:
        place = _tenths(box)
        parts = max(1, ten_thousandths(score))
        known.append(Correction(0, class_id, -1, parts, place, _NOT_ASIDE, _area(place)))
    return known


def beside(one: Correction, light: Object) -> Correction:
    """Return `one` matched with the light network's object of the same thing."""
    sides = [max(light.box[2 + i] - light.box[i], 1.0) for i in (0, 1)]
    left, top, right, bottom = (
        round(1000 * (heavy - edge) / sides[i % 2])
        for i, (heavy, edge) in enumerate(zip(one.place, light.box, strict=True))
    )
    aside, track = (left, top, right, bottom), light.track or 0
    return msgspec.structs.replace(one, track=track, seen_as=light.class_id, aside=aside)


def unseen(light: Object) -> Correction:
    """Return an object of the light network that the heavy pass did not find."""
    place = _tenths(light.box)
    track, class_id = light.track or 0, light.class_id
    return Correction(track, class_id, class_id, 0, place, _NOT_ASIDE, _area(place))


def ten_thousandths(score: float) -> int:
    """Return a score, 0..1, as it is stored."""
    return round(10_000 * score)


def _tenths(box: Sequence[float]) -> Whole4:
    left, top, right, bottom = (round(10 * edge) for edge in box)
    return left, top, right, bottom


def _area(box: Whole4) -> int:
    return max(1, (box[2] - box[0]) * (box[3] - box[1]) // 100)


# -- How much happened in a source since the last answer: a few small numbers.


_MEAN_OVER = 3.0  # answers: the time constant of an exponential mean
_MOST = 3.0  # most objects of one answer that count as surprise


class Unrest(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How much happened since the last answer, or since the beginning.

    stirred   sum over the frames of the share of the picture, 0..1, that changed
    flips     frames in which an object came or went, or the light network found or lost one
    surprise  0..3, mean over the last answers of the objects in which they differed from what
              would have been served without them
    """

    stirred: float = 0.0
    flips: int = 0
    surprise: float = 1.0

    def after(self, share_changed: float, has_flipped: bool) -> Unrest:
        """Return it one frame later."""
        stirred = round(self.stirred + share_changed, 4)
        return Unrest(stirred, self.flips + has_flipped, self.surprise)

    def answered(self, differing: int) -> Unrest:
        """Return it after an answer in which so many objects differed."""
        news = (min(float(differing), _MOST) - self.surprise) / _MEAN_OVER
        return Unrest(surprise=round(self.surprise + news, 3))


MOST_AGE_S: Final = 10.0  # of an answer: an older one corrects nothing
MOST_KNOWN: Final = 64
MOST_NEW: Final = 16
_SAME: Final = 0.4  # least IoU of two boxes of one object
_CHANGED: Final = 0.25  # share of a place: an object that only the heavy pass found is gone
_SURE: Final = 3.0  # worth of a common track, beside overlap and class


class Corrections(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The corrections of a source by the heavy pass's last answer.

    at_s    time of that answer by the source's clock, seconds; None: there was none
    known   the objects of that answer
    new     scores in ten-thousandths of the objects in this frame that no answer was about
    unrest  how much happened since
    """

    at_s: float | None = None
    known: tuple[Correction, ...] = ()
    new: tuple[int, ...] = ()
    unrest: Unrest = Unrest()

    def after(
        self, known: Sequence[Correction], new: Sequence[Object], share: float
    ) -> Corrections:
        """Return them one frame later; share: of its picture, 0..1, that changed."""
        scores = tuple(
            sorted((ten_thousandths(each.score) for each in new), reverse=True)[:MOST_NEW]
        )
        seen, saw = ([one.seen_as >= 0 for one in side] for side in (known, self.known))
        has_flipped = seen != saw or len(scores) != len(self.new)
        return Corrections(self.at_s, tuple(known), scores, self.unrest.after(share, has_flipped))


def served(
    known: Corrections, found: Detections, now_s: float
) -> tuple[tuple[Object, ...], Corrections]:
    """Return what is published of a frame that has no answer, and the corrections after it.

    Highest score first. Pure.
    """
    share = 0.0 if found.changes is None else found.changes.share
    if known.at_s is None or now_s - known.at_s > MOST_AGE_S:
        return found.objects, known.after((), found.objects, share)
    seen_at = _again(known.known, found.objects)
    new = [light for row, light in enumerate(found.objects) if row not in seen_at]
    objects, still = [], []
    for one, row in zip(known.known, seen_at, strict=True):
        if row is None:
            if not _is_stirred(one, found):
                still.append(one if one.seen_as < 0 else msgspec.structs.replace(one, seen_as=-1))
                objects.append(one.as_object("carried"))
            continue
        light = found.objects[row]
        now = one.moved_to(light)
        if not now.looks_alike:
            new.append(light)
            continue
        still.append(now)
        objects.append(now.as_object(light.origin))
    objects = _one_each([each for each in objects if each.score] + new)
    return tuple(objects), known.after(still, new, share)


def learned(
    known: Corrections, found: Detections, heavy: Boxes, now_s: float
) -> tuple[Corrections, tuple[Object, ...]]:
    """Return the corrections by a new answer, and its boxes as objects. Pure.

    known  the corrections before this frame
    found  detect's result of the frame that the answer is about
    heavy  the answer
    """
    seen = seen_by(heavy)
    seen_at = _matched(_worth(seen, found.objects))
    expected, before = served(known, found, now_s)
    lost = [one for one in before.known if one.seen_as < 0 and one.track and one.score]
    goes_on = _matched(_worth(seen, [one.as_object("carried") for one in lost]))
    news = []
    for one, row, gone in zip(seen, seen_at, goes_on, strict=True):
        if row is not None:
            news.append(beside(one, found.objects[row]))
        elif gone is not None and lost[gone].class_id == one.class_id:
            news.append(msgspec.structs.replace(one, track=lost[gone].track))
        else:
            news.append(one)
    objects = tuple(one.as_object("escalated") for one in news)
    news += [unseen(light) for row, light in enumerate(found.objects) if row not in seen_at]
    del news[MOST_KNOWN:]
    unrest = known.unrest.answered(_differing(expected, objects))
    return Corrections(round(now_s, 3), tuple(news), unrest=unrest), objects


def _one_each(objects: Sequence[Object]) -> list[Object]:
    """Without those that came to lie on a surer one, highest score first."""
    boxes = np.array([each.box for each in objects], np.float32).reshape(-1, 4)
    rows = nms.suppress(boxes, np.array([each.score for each in objects], np.float32))
    return [objects[row] for row in rows]


def _differing(objects: Sequence[Object], others: Sequence[Object]) -> int:
    """Return how many objects of either side have none of the same class and place on the other."""
    boxes, theirs = (
        np.array([each.box for each in side], np.float32).reshape(-1, 4)
        for side in (objects, others)
    )
    same = _classes(objects)[:, None] == _classes(others)
    overlap = nms.iou(boxes, theirs)
    met = _matched(np.where(same & (overlap >= matching.MIN_IOU), overlap, np.float32(0)))
    return len(objects) + len(others) - 2 * sum(row is not None for row in met)


def _classes(objects: Sequence[Object]) -> npt.NDArray[np.int32]:
    return np.array([each.class_id for each in objects], np.int32)


def _is_stirred(one: Correction, found: Detections) -> bool:
    """Return whether its place changed since the answer; without a gate it is taken to have."""
    if found.reason == "every_frame":
        return True
    return found.changes is not None and found.changes.share_of(one.place) > _CHANGED


def _again(known: Sequence[Correction], objects: Sequence[Object]) -> list[int | None]:
    """Return the index of each among the objects, by track, else by place; None: not there."""
    if not known or not objects:
        return [None] * len(known)
    worth = _worth(known, objects)
    for i, one in enumerate(known):
        for j, light in enumerate(objects):
            if one.track and one.track == light.track:
                worth[i, j] = _SURE
    return _matched(worth)


def _worth(known: Sequence[Correction], objects: Sequence[Object]) -> npt.NDArray[np.float32]:
    """Return float32 (N, M), how well each fits: IoU, + 1 in the same class; 0: not at all."""
    places = np.array([one.place for one in known], np.float32).reshape(-1, 4)
    boxes = np.array([light.box for light in objects], np.float32).reshape(-1, 4)
    overlap = nms.iou(places, boxes)
    classes = np.array([one.class_id if one.seen_as < 0 else one.seen_as for one in known])
    same = classes[:, None] == _classes(objects)
    return np.where(overlap >= _SAME, overlap + same, np.float32(0))


def _matched(worth: npt.NDArray[np.float32]) -> list[int | None]:
    """Return each row's column, best pairs first; None for a row that fits none."""
    rows, columns = matching.by_worth(worth)
    taken = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [taken.get(row) for row in range(len(worth))]
