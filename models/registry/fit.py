"""A whole picture as the input of a network of one size."""

from __future__ import annotations

import numpy as np

from framegate.models.picture import Picture
from framegate.models.preprocess import Prepared, to_bgr
from framegate.models.registry.model_folder import InputSpec


def fit(picture: Picture, spec: InputSpec) -> Prepared:
    """`picture` at the size that `spec` asks for, in the order B, G, R, grey where it is not.

    Boxes in pixels of the answer come back to the source by `preprocess.to_source`.
    """
    width, height = spec.width, spec.height
    inner = _inner(picture.width, picture.height, spec)
    source = picture.width, picture.height
    if inner == (width, height):
        return Prepared(to_bgr(picture, inner), inner, source)
    is_centred = spec.fit == "letterbox"
    left, top = ((width - inner[0]) // 2, (height - inner[1]) // 2) if is_centred else (0, 0)
    bgr = np.full((height, width, 3), spec.fill, np.uint8)
    bgr[top : top + inner[1], left : left + inner[0]] = to_bgr(picture, inner)
    return Prepared(bgr, inner, source, (-left, -top))


def _inner(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    """Size of the picture inside the input."""
    if spec.fit == "stretch":
        return spec.width, spec.height
    scale = min(spec.width / width, spec.height / height)
    sides = round(width * scale), round(height * scale)
    return min(max(1, sides[0]), spec.width), min(max(1, sides[1]), spec.height)
