"""Colours of objects: the share of the eleven basic colour names in the pixels of a box."""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import FloatArray, IndexArray, IntArray
from framegate.models.picture import ByteArray, Picture

NAMES: Final = (
    "black", "grey", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
)  # fmt: skip
SAMPLES: Final = 12  # in each direction of a box
# Parts of a side that are sampled. The rest of an object's box shows the background.
_INNER: Final = np.linspace(0.25, 0.75, SAMPLES, dtype=np.float32)
_UPPER: Final = np.linspace(0.12, 0.45, SAMPLES, dtype=np.float32)  # upper clothes of a person
_UPRIGHT: Final = 1.4  # height of a box by its width, from which it is upright
_BITS: Final = 3  # of a channel that the table leaves out


def counts(picture: Picture, xyxy: FloatArray) -> IntArray:
    """Return how many of SAMPLES x SAMPLES pixels of each box have each colour, int32 (N, 11).

    xyxy  float32 (N, 4), left, top, right, bottom in pixels of the picture
    """
    table = _table(picture.matrix, picture.full_range)
    left, top, right, bottom = xyxy.T
    is_upright = bottom - top > _UPRIGHT * (right - left)
    parts = np.where(is_upright[:, None], _UPPER, _INNER)
    across = _places(left, right, _INNER, picture.width)[:, None, :]
    down = _places(top, bottom, parts, picture.height)[:, :, None]
    y = picture.y[down, across] >> _BITS
    u = picture.u[down // 2, across // 2] >> _BITS
    v = picture.v[down // 2, across // 2] >> _BITS
    # One count for all boxes: each has its own range of numbers.
    first = len(NAMES) * np.arange(len(xyxy))
    numbers = table[y, u, v] + first[:, None, None]
    counted = np.bincount(numbers.ravel(), minlength=len(NAMES) * len(xyxy))
    return counted.reshape(len(xyxy), len(NAMES)).astype(np.int32)


def _places(low: FloatArray, high: FloatArray, parts: FloatArray, size: int) -> IndexArray:
    """Return the samples (N, SAMPLES) at parts of one side of each box, inside the picture."""
    places = low[:, None] + (high - low)[:, None] * parts
    return np.clip(places, 0, size - 1).astype(np.intp)


@cache
def _table(matrix: str, full_range: bool) -> ByteArray:
    """Return the number of the colour name for each Y, U and V in steps of 8, uint8 (32, 32, 32).

    Names follow hue, saturation and value. The borders between hues are those of common colour
    charts. The others were chosen by the colours of labelled visits: outdoors a camera shows white
    cars and shirts as light grey, and black ones as dark blue.
    """
    steps = np.arange(0, 256, 1 << _BITS, dtype=np.float32) + (1 << _BITS) / 2
    y, u, v = np.meshgrid(steps, steps, steps, indexing="ij")
    if full_range:
        luma, blue, red = y, u - 128, v - 128
    else:
        luma, blue, red = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    of_red, of_blue = {"bt601": (0.299, 0.114)}.get(matrix, (0.2126, 0.0722))
    r = luma + 2 * (1 - of_red) * red
    b = luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    rgb = np.clip(np.stack([r, g, b], axis=-1), 0, 255).astype(np.float32) / 255
    hsv = cv2.cvtColor(rgb.reshape(-1, 1, 3), cv2.COLOR_RGB2HSV).reshape(*y.shape, 3)
    return _named(*np.moveaxis(hsv, -1, 0))


def _named(hue: FloatArray, saturation: FloatArray, value: FloatArray) -> ByteArray:
    """Return the number of the colour name for hue (0 to 360), saturation and value (0 to 1)."""
    by_hue = np.select(
        [hue < 15, hue < 40, hue < 70, hue < 165, hue < 255, hue < 290, hue < 335],
        [NAMES.index(n) for n in ("red", "orange", "yellow", "green", "blue", "purple", "pink")],
        NAMES.index("red"),
    )
    is_warm = (hue < 50) | (hue >= 335)
    is_grey = saturation < 0.18
    rules = (
        (value < 0.2, "black"),
        ((saturation < 0.3) & (value < 0.28), "black"),
        (is_grey & (value > 0.55), "white"),
        (is_grey, "grey"),
        ((hue >= 15) & (hue < 50) & (value < 0.65), "brown"),
        (is_warm & (value > 0.75) & (saturation < 0.45) & ((hue < 15) | (hue >= 335)), "pink"),
    )
    names = [NAMES.index(name) for _, name in rules]
    named: ByteArray = np.select([mask for mask, _ in rules], names, by_hue).astype(np.uint8)
    return named
