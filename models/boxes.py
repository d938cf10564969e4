"""What a detector says about one picture."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from framegate.models.arrays import read_only
from framegate.models.errors import ArrayMismatch

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """A struct of read-only arrays, one row a box, highest score first.

    xyxy       float32 (N, 4)  left, top, right, bottom in pixels of the source picture
    scores     float32 (N,)    0..1
    class_ids  int32   (N,)    index into `coco.LABELS`

    Raises ArrayMismatch. N may be 0: "looked, found nothing". Safe to share between threads.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", read_only("scores", self.scores, np.float32, (None,)))
        n = len(self.scores)
        object.__setattr__(self, "xyxy", read_only("xyxy", self.xyxy, np.float32, (n, 4)))
        object.__setattr__(
            self, "class_ids", read_only("class_ids", self.class_ids, np.int32, (n,))
        )
        # A sum of doubles is finite when all of it is; this runs dozens of times a frame.
        if not math.isfinite(self.xyxy.sum(dtype=np.float64) + self.scores.sum(dtype=np.float64)):
            raise ArrayMismatch("boxes", "finite numbers", "NaN or infinity")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Boxes":
        """The rows of an index array or a Boolean mask, in that order."""
        return Boxes(self.xyxy[rows], self.scores[rows], self.class_ids[rows])

    def moved(self, right: float, down: float) -> "Boxes":
        """The same boxes, shifted by that many pixels: from a part of a picture to the whole."""
        shift = np.array([right, down, right, down], np.float32)
        return Boxes(self.xyxy + shift, self.scores, self.class_ids)

    def to_bytes(self) -> bytes:
        """21 bytes a box, as this machine has numbers."""
        class_ids = self.class_ids.astype(np.uint8)
        return b"".join((self.xyxy.tobytes(), self.scores.tobytes(), class_ids.tobytes()))

    @staticmethod
    def from_bytes(data: bytes) -> "Boxes":
        """What `to_bytes` wrote, whole."""
        n = len(data) // 21
        xyxy = np.frombuffer(data, np.float32, 4 * n).reshape(n, 4)
        scores = np.frombuffer(data, np.float32, n, 16 * n)
        return Boxes(xyxy, scores, np.frombuffer(data, np.uint8, n, 20 * n).astype(np.int32))

    @staticmethod
    def read(data: bytes, classes: Collection[int] = range(256)) -> "Boxes | None":
        """What `to_bytes` wrote of these classes; None for anything else."""
        if len(data) % 21:
            return None
        try:
            boxes = Boxes.from_bytes(data)
        except ArrayMismatch:
            return None
        return boxes if all(each in classes for each in boxes.class_ids.tolist()) else None


def empty() -> Boxes:
    """No box at all."""
    return Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))
