"""What answers of the heavy pass teach about the frames after them, until something changes.

An answer is about one frame. After it, what light finds again, by its track or by its place, has
the class and the score that heavy gave it; what heavy did not see there is left out; and what heavy
alone saw stays where it was, as long as that place does not change. Each answer replaces all that
those before it said: means over several would be slower to see what changed.
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
from framegate.pipeline.records import Object, Origin
from framegate.stages.detections import Detections

# -- One thing that the heavy pass spoke of, and where it is since, in few bytes.


Box = tuple[float, float, float, float]
Whole4 = tuple[int, int, int, int]

_OTHER_SIZE: Final = 1.5  # times the area: what grew or shrank by as much looks different
_NOT_ASIDE: Final = (0, 0, 0, 0)


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What heavy said of one thing, and where that is now.

    track     the light path's, 0 without one
    class_id  heavy's; light's where heavy saw nothing
    seen_as   light's class, -1 where light does not see it now
    score     ten-thousandths; 0: heavy sees nothing there
    box       tenths of a source pixel
    aside     how far heavy's edges lie beside light's, in thousandths of light's sides
    area      square pixels when heavy saw it
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
        """In source pixels."""
        left, top, right, bottom = self.box
        return left / 10, top / 10, right / 10, bottom / 10

    @property
    def growth(self) -> float:
        """Its area, in parts of what it was when heavy saw it."""
        return _area(self.box) / self.area

    @property
    def looks_alike(self) -> bool:
        """Whether it is about as large as heavy saw it."""
        return 1 / _OTHER_SIZE < self.growth < _OTHER_SIZE

    def moved_to(self, light: Object) -> Known:
        """Where light sees it now."""
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
        """As it is published."""
        label, score = coco.LABELS[self.class_id], self.score / 10_000
        return Object(self.track or None, label, self.class_id, score, self.place, origin)


def seen_by(heavy: Boxes) -> list[Known]:
    """As if light saw nothing of it."""
    rows = zip(heavy.xyxy.tolist(), heavy.scores.tolist(), heavy.class_ids.tolist(), strict=True)
    known = []
    for box, score, class_id in rows:
        place = _tenths(box)
        parts = max(1, ten_thousandths(score))
        known.append(Known(0, class_id, -1, parts, place, _NOT_ASIDE, _area(place)))
    return known


def beside(one: Known, light: Object) -> Known:
    """What heavy saw, as a correction of what light sees."""
    sides = [max(light.box[2 + i] - light.box[i], 1.0) for i in (0, 1)]
    left, top, right, bottom = (
        round(1000 * (heavy - edge) / sides[i % 2])
        for i, (heavy, edge) in enumerate(zip(one.place, light.box, strict=True))
    )
    aside, track = (left, top, right, bottom), light.track or 0
    return msgspec.structs.replace(one, track=track, seen_as=light.class_id, aside=aside)


def unseen(light: Object) -> Known:
    """What light sees and heavy does not."""
    place = _tenths(light.box)
    track, class_id = light.track or 0, light.class_id
    return Known(track, class_id, class_id, 0, place, _NOT_ASIDE, _area(place))


def ten_thousandths(score: float) -> int:
    """A score, 0..1, as it is stored."""
    return round(10_000 * score)


def _tenths(box: Sequence[float]) -> Whole4:
    left, top, right, bottom = (round(10 * edge) for edge in box)
    return left, top, right, bottom


def _area(box: Whole4) -> int:
    return max(1, (box[2] - box[0]) * (box[3] - box[1]) // 100)


# -- What went on in a source since the heavy pass last said something: a few small numbers.


_MEAN_OVER = 3.0  # answers; what was before is forgotten, exponentially
_MOST = 3.0  # objects of one answer that surprise counts


class Unrest(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Since the last answer, or since the beginning.

    stirred   sum over the frames of the share of the picture, 0..1, that had changed
    flips     frames in which something came, went, or was seen or lost by light
    surprise  0..3, objects in which answers differed from what would have been served without them;
              a mean over the last few
    """

    stirred: float = 0.0
    flips: int = 0
    surprise: float = 1.0

    def after(self, share_changed: float, has_flipped: bool) -> Unrest:
        """One frame later."""
        stirred = round(self.stirred + share_changed, 4)
        return Unrest(stirred, self.flips + has_flipped, self.surprise)

    def answered(self, differing: int) -> Unrest:
        """After an answer, in which so many objects differed."""
        news = (min(float(differing), _MOST) - self.surprise) / _MEAN_OVER
        return Unrest(surprise=round(self.surprise + news, 3))


MOST_AGE_S: Final = 10.0  # of an answer; then nothing of it holds
MOST_KNOWN: Final = 64
MOST_NEW: Final = 16
_SAME: Final = 0.4  # IoU from which on two boxes are of one thing
_CHANGED: Final = 0.25  # share of a place from which on what only heavy saw there is gone
_SURE: Final = 3.0  # what a common track is worth, beside overlap and class


class Corrections(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is known of a source from heavy's last answer.

    at_s    when that was, on the source's clock; None: never
    new     ten-thousandths, scores of what light sees in this frame and no answer spoke of
    unrest  what went on since
    """

    at_s: float | None = None
    known: tuple[Known, ...] = ()
    new: tuple[int, ...] = ()
    unrest: Unrest = Unrest()

    def after(self, known: Sequence[Known], new: Sequence[Object], share: float) -> Corrections:
        """One frame later, of which a share changed."""
        scores = tuple(
            sorted((ten_thousandths(each.score) for each in new), reverse=True)[:MOST_NEW]
        )
        seen, saw = ([one.seen_as >= 0 for one in side] for side in (known, self.known))
        has_flipped = seen != saw or len(scores) != len(self.new)
        return Corrections(self.at_s, tuple(known), scores, self.unrest.after(share, has_flipped))


def served(
    known: Corrections, found: Detections, now_s: float
) -> tuple[tuple[Object, ...], Corrections]:
    """What is published of a frame that heavy is not asked about, highest score first. Pure."""
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
    objects = [each for each in objects if each.score] + new
    objects.sort(key=lambda each: -each.score)
    return tuple(objects), known.after(still, new, share)


def learned(
    known: Corrections, found: Detections, heavy: Boxes, now_s: float
) -> tuple[Corrections, tuple[Object, ...]]:
    """What holds from now on, and heavy's own boxes as objects. Pure.

    known  before this frame
    found  of the frame that heavy saw
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


def _differing(objects: Sequence[Object], others: Sequence[Object]) -> int:
    """Objects of either side that the other does not have, of the same class and place."""
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


def _is_stirred(one: Known, found: Detections) -> bool:
    """Whether its place is not what heavy saw; without a gate nobody can tell."""
    if found.reason == "every_frame":
        return True
    return found.changes is not None and found.changes.share_of(one.place) > _CHANGED


def _again(known: Sequence[Known], objects: Sequence[Object]) -> list[int | None]:
    """For each that is known, where it is among the objects: by its track, else by its place."""
    if not known or not objects:
        return [None] * len(known)
    worth = _worth(known, objects)
    for i, one in enumerate(known):
        for j, light in enumerate(objects):
            if one.track and one.track == light.track:
                worth[i, j] = _SURE
    return _matched(worth)


def _worth(known: Sequence[Known], objects: Sequence[Object]) -> npt.NDArray[np.float32]:
    """float32 (N, M): how well each fits each object, 0 where not; best with the same class."""
    places = np.array([one.place for one in known], np.float32).reshape(-1, 4)
    boxes = np.array([light.box for light in objects], np.float32).reshape(-1, 4)
    overlap = nms.iou(places, boxes)
    classes = np.array([one.class_id if one.seen_as < 0 else one.seen_as for one in known])
    same = classes[:, None] == _classes(objects)
    return np.where(overlap >= _SAME, overlap + same, np.float32(0))


def _matched(worth: npt.NDArray[np.float32]) -> list[int | None]:
    """Column of each row, None for a row that fits none: the best pair first."""
    rows, columns = matching.by_worth(worth)
    taken = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [taken.get(row) for row in range(len(worth))]
