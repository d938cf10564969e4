"""A sheet of pictures of each class that a teacher saw, so that a user can check the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.picture import ByteArray, Picture
from framegate.models.preprocess import to_bgr

EACH: Final = 8  # pictures of a class
_SIDE: Final = 96  # of one, in pixels
_TEXT: Final = 132  # width of the names' column
_GAP: Final = 6
_WIDER: Final = 1.3  # than the box, so that one sees where it is
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


class ClassSheet:
    """A random sample of the objects of each class. One thread."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._cut: dict[int, list[ByteArray]] = {}
        self._count: dict[int, int] = {}

    def add(self, picture: Picture, boxes: Boxes) -> None:
        """Add a picture's objects; each object of a class has the same chance to be shown."""
        for box, class_id in zip(boxes.xyxy.tolist(), boxes.class_ids.tolist(), strict=True):
            cut = self._cut.setdefault(class_id, [])
            count = self._count[class_id] = self._count.get(class_id, 0) + 1
            if len(cut) < EACH:
                cut.append(_cut_out(picture, box))
            elif (place := int(self._rng.integers(count))) < EACH:
                cut[place] = _cut_out(picture, box)

    def drawn(self, classes: Sequence[tuple[int, str]], suffix: str) -> bytes:
        """Return the sheet as an image file, with a row for each (class id, text).

        suffix: .png or .jpg. ValueError for others.
        """
        width = _TEXT + EACH * (_SIDE + _GAP) + _GAP
        sheet = np.full((len(classes) * (_SIDE + _GAP) + _GAP, width, 3), 255, np.uint8)
        for row, (class_id, words) in enumerate(classes):
            top = _GAP + row * (_SIDE + _GAP)
            for line, text in enumerate(words.split("\n")):
                at = (_GAP, top + 20 + 18 * line)
                cv2.putText(sheet, text, at, _FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
            for column, cut in enumerate(self._cut.get(class_id, ())):
                left = _TEXT + column * (_SIDE + _GAP)
                height, wide = cut.shape[:2]
                sheet[top : top + height, left : left + wide] = cut
        try:
            _, coded = cv2.imencode(suffix, sheet)
        except cv2.error as error:
            raise ValueError(f"{suffix or 'no ending'}: allowed are .jpg and .png") from error
        return coded.tobytes()


def _cut_out(picture: Picture, box: Sequence[float]) -> ByteArray:
    """Return the surroundings of a box, at most _SIDE pixels high and wide, with the box drawn."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top, 8) * _WIDER / 2
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    x1, y1 = max(0, int(middle_x - half)), max(0, int(middle_y - half))
    x2, y2 = min(picture.width, int(middle_x + half)), min(picture.height, int(middle_y + half))
    scale = _SIDE / max(x2 - x1, y2 - y1)
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    whole = to_bgr(picture, (picture.width, picture.height), (x1, y1, x2, y2))
    cut = cv2.resize(whole, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    corners = [round((box[0] - x1) * scale), round((box[1] - y1) * scale)]
    corners += [round((box[2] - x1) * scale), round((box[3] - y1) * scale)]
    cv2.rectangle(cut, corners[:2], corners[2:], (40, 40, 230), 1, cv2.LINE_AA)
    return cut.astype(np.uint8, copy=False)[:_SIDE, :_SIDE]
