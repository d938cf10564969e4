"""What an answer of the heavy pass teaches about the frames after it, until something changes.

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

from models import coco, nms
from models.boxes import Boxes
from pipeline.records import Object, Origin
from stages.detections import Detections

Box = tuple[float, float, float, float]
Whole4 = tuple[int, int, int, int]

MOST_AGE_S: Final = 10.0  # of an answer; then nothing of it holds
MOST_KNOWN: Final = 64
_SAME: Final = 0.4  # IoU from which on two boxes are of one thing
_CHANGED: Final = 0.25  # share of a place from which on what only heavy saw there is gone
_OTHER_SIZE: Final = 1.5  # times the area: what grew or shrank by as much looks different
_SURE: Final = 3.0  # what a common track is worth, beside overlap and class
_NOT_ASIDE: Final = (0, 0, 0, 0)


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What heavy said of one thing, and where that is now.

    track     the light path's, 0 without one
    class_id  heavy's; light's where heavy saw nothing
    seen_as   light's class, -1 where light does not see it
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
    def looks_alike(self) -> bool:
        """Whether it is about as large as heavy saw it."""
        return 1 / _OTHER_SIZE < _area(self.box) / self.area < _OTHER_SIZE

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


class Corrections(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is known of a source from heavy's last answer.

    at_s  when that was, on the source's clock; None: never
    """

    at_s: float | None = None
    known: tuple[Known, ...] = ()


def served(
    known: Corrections, found: Detections, now_s: float
) -> tuple[tuple[Object, ...], Corrections]:
    """What is published of a frame that heavy is not asked about, highest score first. Pure."""
    if known.at_s is None or now_s - known.at_s > MOST_AGE_S:
        return found.objects, Corrections(known.at_s)
    seen_at = _again(known.known, found.objects)
    objects, still = [], []
    for one, row in zip(known.known, seen_at, strict=True):
        light = None if row is None else found.objects[row]
        now = one if light is None else one.moved_to(light)
        if light is None and _is_stirred(one, found):
            continue
        if light is not None and not now.looks_alike:
            objects.append(light)
            continue
        still.append(now)
        if now.score:
            objects.append(now.as_object("carried" if light is None else light.origin))
    objects += [light for row, light in enumerate(found.objects) if row not in seen_at]
    objects.sort(key=lambda each: -each.score)
    return tuple(objects), Corrections(known.at_s, tuple(still))


def learned(
    known: Corrections, found: Detections, heavy: Boxes, now_s: float
) -> tuple[Corrections, tuple[Object, ...]]:
    """What holds from now on, and heavy's own boxes as objects. Pure.

    known  before this frame; it only gives tracks to what light has lost sight of
    found  of the frame that heavy saw
    """
    seen = _known_of(heavy)
    seen_at = _matched(_worth(seen, found.objects))
    lost = _lost(known, found)
    goes_on = _matched(_worth(seen, [one.as_object("carried") for one in lost]))
    news = []
    for one, row, before in zip(seen, seen_at, goes_on, strict=True):
        if row is not None:
            news.append(_beside(one, found.objects[row]))
        elif before is not None and lost[before].class_id == one.class_id:
            news.append(msgspec.structs.replace(one, track=lost[before].track))
        else:
            news.append(one)
    objects = tuple(one.as_object("escalated") for one in news)
    news += [_unseen(light) for row, light in enumerate(found.objects) if row not in seen_at]
    return Corrections(round(now_s, 3), tuple(news[:MOST_KNOWN])), objects


def _known_of(heavy: Boxes) -> list[Known]:
    """As if light saw nothing of it."""
    rows = zip(heavy.xyxy.tolist(), heavy.scores.tolist(), heavy.class_ids.tolist(), strict=True)
    known = []
    for box, score, class_id in rows:
        place = _tenths(box)
        parts = max(1, round(score * 10_000))
        known.append(Known(0, class_id, -1, parts, place, _NOT_ASIDE, _area(place)))
    return known


def _beside(one: Known, light: Object) -> Known:
    """What heavy saw, as a correction of what light sees."""
    sides = [max(light.box[2 + i] - light.box[i], 1.0) for i in (0, 1)]
    left, top, right, bottom = (
        round(1000 * (heavy - edge) / sides[i % 2])
        for i, (heavy, edge) in enumerate(zip(one.place, light.box, strict=True))
    )
    aside, track = (left, top, right, bottom), light.track or 0
    return msgspec.structs.replace(one, track=track, seen_as=light.class_id, aside=aside)


def _unseen(light: Object) -> Known:
    """What light sees and heavy does not."""
    place = _tenths(light.box)
    track, class_id = light.track or 0, light.class_id
    return Known(track, class_id, class_id, 0, place, _NOT_ASIDE, _area(place))


def _lost(known: Corrections, found: Detections) -> list[Known]:
    """What had a track, and light does not see in this frame."""
    seen_at = _again(known.known, found.objects)
    rows = zip(known.known, seen_at, strict=True)
    return [one for one, row in rows if row is None and one.track and one.score]


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
    same = classes[:, None] == np.array([light.class_id for light in objects])
    return np.where(overlap >= _SAME, overlap + same, np.float32(0))


def _matched(worth: npt.NDArray[np.float32]) -> list[int | None]:
    """Column of each row, every column at most once: the best pair first."""
    found: list[int | None] = [None] * len(worth)
    free = [True] * worth.shape[1]
    rows, columns = np.nonzero(worth)
    for pair in np.argsort(-worth[rows, columns], kind="stable"):
        row, column = int(rows[pair]), int(columns[pair])
        if found[row] is None and free[column]:
            found[row], free[column] = column, False
    return found


def _tenths(box: Sequence[float]) -> Whole4:
    left, top, right, bottom = (round(10 * edge) for edge in box)
    return left, top, right, bottom


def _area(box: Whole4) -> int:
    return max(1, (box[2] - box[0]) * (box[3] - box[1]) // 100)
