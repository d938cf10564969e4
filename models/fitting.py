"""A picture as the fixed input of a network, and the way back for its boxes."""

from dataclasses import dataclass

import numpy as np

from models.arrays import read_only
from models.boxes import FloatArray
from models.model_folder import InputSpec
from models.picture import ByteArray, Picture
from models.preprocess import to_bgr


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A picture at the size of an input.

    bgr     uint8 (height, width, 3), order B, G, R, as the network file takes it
    inner   (left, top, width, height) of the picture in it, in pixels
    source  (width, height) of the picture itself
    """

    bgr: ByteArray
    inner: tuple[int, int, int, int]
    source: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bgr", read_only("bgr", self.bgr, np.uint8, (None, None, 3)))

    def to_source(self, xyxy: FloatArray) -> FloatArray:
        """Boxes (N, 4) in pixels of the input as boxes in source pixels, cut at its border."""
        left, top, width, height = self.inner
        shift = np.array((left, top) * 2, np.float32)
        scale = np.array((self.source[0] / width, self.source[1] / height) * 2, np.float32)
        limit = np.array(self.source * 2, np.float32)
        out: FloatArray = np.clip((xyxy - shift) * scale, np.float32(0), limit)
        return out


def inner_rect(source: tuple[int, int], spec: InputSpec) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a (width, height) picture in the input."""
    if spec.fit == "stretch":
        return 0, 0, spec.width, spec.height
    scale = min(spec.width / source[0], spec.height / source[1])
    width = min(spec.width, max(1, round(source[0] * scale)))
    height = min(spec.height, max(1, round(source[1] * scale)))
    if spec.fit == "corner":
        return 0, 0, width, height
    return (spec.width - width) // 2, (spec.height - height) // 2, width, height


def fit(picture: Picture, spec: InputSpec) -> Fitted:
    """`picture` as `spec` says it."""
    source = picture.width, picture.height
    left, top, width, height = inner = inner_rect(source, spec)
    bgr = np.full((spec.height, spec.width, 3), spec.fill, np.uint8)
    bgr[top : top + height, left : left + width] = to_bgr(picture, (width, height))
    return Fitted(bgr, inner, source)
