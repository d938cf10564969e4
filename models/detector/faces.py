"""CenterFace: where faces are in a picture, so that they can be made unknown. It knows nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.detector.network import Network, NetworkFile, verified
from framegate.models.picture import Picture
from framegate.models.preprocess import prepare, to_source

LEAST_SCORE: Final = 0.1  # low: a blurred cup is a smaller harm than a face that is not
LEAST_SIDE, MOST_SIDE, OF_SIDE = 640, 1280, 2 / 3  # pixels; of the picture's longer side
_SAME: Final = 0.3  # IoU above which two boxes are one face
_STEP: Final = 4  # pixels of the input in one of its cells
_OUTPUTS: Final = ("heat", "size", "shift")


class FaceNetwork:
    """The network, compiled; `name` says which. In f32 and on one thread.

    Same input, same bits. Thread rule: one thread at a time. Raises ModelUnreadable.
    """

    def __init__(self) -> None:
        file = NetworkFile(*verified("centerface"))
        self._network = Network(file, _OUTPUTS, "f32", threads=1)
        self.name = f"centerface-f32@{file.sha256[:8]}"

    def faces(self, picture: Picture, least_score: float = LEAST_SCORE) -> Boxes:
        """Return the faces of a picture of any size, in its pixels; their class is 0.

        least_score  0 to 1; faces with lower scores are left out
        """
        seen = prepare(picture, side_for(picture))
        token = self._network.submit(seen.bgr)
        found = self._network.read(token, lambda out: boxes_of(out, least_score))
        return Boxes(to_source(found.xyxy, seen), found.scores, found.class_ids)


def side_for(picture: Picture) -> int:
    """Return how large the network sees a picture, so that it finds the faces that one can know."""
    longer = max(picture.width, picture.height)
    return min(max(LEAST_SIDE, round(OF_SIDE * longer)), MOST_SIDE)


def boxes_of(outputs: Sequence[FloatArray], least_score: float) -> Boxes:
    """Return what the network's outputs say, in pixels of its input, each face once.

    outputs  heat (1, h, w), 0 to 1: whether a face's middle lies in a cell; size (2, h, w):
             logarithms of its height and width in cells; shift (2, h, w): of its middle, down and
             right, from the cell's corner, in cells. float32
    """
    heat, size, shift = outputs
    rows, columns = np.nonzero(heat[0] >= least_score)
    high, wide = np.exp(size[:, rows, columns]) * _STEP
    down, right = shift[:, rows, columns] + 0.5
    y, x = (rows + down) * _STEP, (columns + right) * _STEP
    xyxy = np.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], -1)
    scores, xyxy = heat[0, rows, columns], xyxy.astype(np.float32)
    kept = suppress(xyxy, scores, _SAME)
    return Boxes(xyxy[kept], scores[kept], np.zeros(len(kept), np.int32))
