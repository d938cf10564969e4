"""Detect faces with CenterFace, to blur them. It does not recognise anyone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.detector.network import Network, NetworkFile, verified
from framegate.models.picture import Picture, prepare, to_source

MIN_SCORE: Final = 0.1  # low, because a missed face is worse than a blurred cup
MIN_SIDE: Final = 640  # pixels of the longer side of the network's input
MAX_SIDE: Final = 1280
SIDE_SHARE: Final = 2 / 3  # of the picture's longer side
_SAME: Final = 0.3  # IoU above which two boxes are the same face
_STEP: Final = 4  # pixels of the input for each cell
_OUTPUTS: Final = ("heat", "size", "shift")


class FaceNetwork:
    """The compiled network, in f32 on one thread. The same input gives the same bits.

    name  name of the network, such as `centerface-f32@0123abcd`

    Thread rule: one thread at a time. Raises ModelUnreadable.
    """

    def __init__(self) -> None:
        file = NetworkFile(*verified("centerface"))
        self._network = Network(file, _OUTPUTS, "f32", threads=1)
        self.name = f"centerface-f32@{file.sha256[:8]}"

    def faces(self, picture: Picture, min_score: float = MIN_SCORE) -> Boxes:
        """Return the faces of a picture of any size, in its pixels, with class id 0.

        min_score  0..1, lowest score of a face
        """
        prepared = prepare(picture, side_for(picture))
        token = self._network.submit(prepared.bgr)
        boxes = self._network.read(token, lambda outputs: boxes_of(outputs, min_score))
        return Boxes(to_source(boxes.xyxy, prepared), boxes.scores, boxes.class_ids)


def side_for(picture: Picture) -> int:
    """Return the longer side of the network's input, large enough for all recognisable faces."""
    longer = max(picture.width, picture.height)
    return min(max(MIN_SIDE, round(SIDE_SHARE * longer)), MAX_SIDE)


def boxes_of(outputs: Sequence[FloatArray], min_score: float) -> Boxes:
    """Return the faces in the network's outputs, in pixels of its input, after suppression.

    outputs  float32 arrays: heat (1, h, w), 0..1, probability of a face's centre in each cell; size
             (2, h, w), logarithms of height and width in cells; shift (2, h, w), down and right
             from the cell's corner to the face's centre, in cells
    """
    heat, size, shift = outputs
    rows, columns = np.nonzero(heat[0] >= min_score)
    height, width = np.exp(size[:, rows, columns]) * _STEP
    down, right = shift[:, rows, columns] + 0.5
    y = (rows + down) * _STEP
    x = (columns + right) * _STEP
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xyxy = np.stack(corners, -1).astype(np.float32)
    scores = heat[0, rows, columns]
    kept = suppress(xyxy, scores, _SAME)
    return Boxes(xyxy[kept], scores[kept], np.zeros(len(kept), np.int32))
