"""One thing that the heavy pass spoke of, and where it is since, in few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.pipeline.records import Object, Origin

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
