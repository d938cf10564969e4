"""What a region looks like: the detector's own inner maps, averaged over boxes and tiles.

C3 says which object it is, P4 which class; each is averaged over the region with every cell
weighted by how much of it the region covers, brought to length 1, and the two are joined and
renormalised (the idea of RoI pooling: Girshick, "Fast R-CNN", ICCV 2015). A box is the product of
two intervals, so its mean is a weighted sum along rows and then along columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import Boxes, FloatArray, read_only
from framegate.models.detector.member import Features
from framegate.models.errors import ArrayMismatch
from framegate.models.preprocess import STEP

HalfArray = npt.NDArray[np.float16]

LENGTH: Final = 256
TILE: Final = STEP  # side of a tile in model pixels: crops have edges on it, so none cuts a tile
_STRIDES: Final = (8, 16)
_THIN: Final = 0.01  # cells: the least side of a region
_TINY: Final = 1e-12
_NOTHING: Final = np.zeros((0, 0), np.float32)  # added to a product


@dataclass(frozen=True, slots=True, eq=False)
class RegionFeatures:
    """What one input of the network (a whole picture or a look at a part) shows, region by region.

    boxes   float16 (N, 256)              of each box, unit length up to rounding
    tiles   float16 (rows, columns, 256)  of each tile of 32 x 32 pixels of this input
    offset  (left, top) of the input in the whole prepared picture, multiples of 32

    Kept in float16, rounded once where they are made: what is stored is what is computed with.
    Raises ArrayMismatch. Read-only; safe to share between threads.
    """

    boxes: HalfArray
    tiles: HalfArray
    offset: tuple[int, int]

    def __post_init__(self) -> None:
        boxes = read_only("boxes", self.boxes, np.float16, (None, LENGTH))
        tiles = read_only("tiles", self.tiles, np.float16, (None, None, LENGTH))
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "tiles", tiles)
        if self.offset[0] % TILE or self.offset[1] % TILE:
            raise ArrayMismatch("offset", f"multiples of {TILE}", f"{self.offset}")


def read(boxes: Boxes, maps: Features | None) -> tuple[Boxes, RegionFeatures]:
    """A reader for `Detector.look_with_features`: the boxes, and what the input shows of them.

    Averages while the maps lie in the network's own memory: they are never copied. ArrayMismatch if
    the detector was loaded without features.
    """
    if maps is None:
        raise ArrayMismatch("maps", "c3 and p4 of a detector loaded with features", "None")
    return boxes, regions(maps, boxes.xyxy)


def regions(maps: Features, xyxy: FloatArray) -> RegionFeatures:
    """Return features of boxes, float32 (N, 4) in source pixels, and of all tiles of one input.

    What of a box lies outside the input is cut off; of a box wholly outside, or without area, a
    hundredth of the cell nearest to it is taken. Raises ArrayMismatch.
    """
    fine, coarse = maps.c3.shape[1:], maps.p4.shape[1:]
    if fine != (2 * coarse[0], 2 * coarse[1]) or coarse[0] % 2 or coarse[1] % 2:
        raise ArrayMismatch("maps", "c3 and p4 of one input", f"{fine} and {coarse} cells")
    inside = xyxy.astype(np.float64) * np.array(maps.scale * 2) - np.array(maps.offset * 2)
    levels = tuple(zip((maps.c3, maps.p4), _STRIDES, strict=True))
    boxes = joined(*(_box_means(cells, inside / stride) for cells, stride in levels))
    tiles = joined(*(_tile_means(cells, TILE // stride) for cells, stride in levels))
    return RegionFeatures(boxes, tiles, maps.offset)


def _tile_means(cells: FloatArray, side: int) -> FloatArray:
    """Return means of (n, h, w) over squares of `side` cells: (h / side, w / side, n)."""
    n, height, width = cells.shape
    # Planes lie one under the other and no square reaches into the next: one picture to shrink.
    flat = np.ascontiguousarray(cells).reshape(n * height, width)
    smaller = (width // side, n * height // side)
    means = cv2.resize(flat, smaller, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    return means.reshape(n, height // side, width // side).transpose(1, 2, 0)


def _box_means(cells: FloatArray, xyxy: npt.NDArray[np.float64]) -> FloatArray:
    """Return means of (n, h, w) over boxes (N, 4) in cells: (N, n)."""
    height, width = cells.shape[1:]
    across = _along_rows(cells, _shares(xyxy[:, 0], xyxy[:, 2], width).T)
    means: FloatArray = np.einsum("chn,nh->nc", across, _shares(xyxy[:, 1], xyxy[:, 3], height))
    return means


def _along_rows(cells: FloatArray, shares: FloatArray) -> FloatArray:
    """Weighted sums (n, h, N) of the rows of (n, h, w). OpenCV's product: numpy's would start
    threads of its own, which then wait for work on the cores that the network needs.
    """
    n, height, width = cells.shape
    if not shares.shape[1]:
        return np.zeros((n, height, 0), np.float32)
    flat = np.ascontiguousarray(cells).reshape(n * height, width)
    sums = cv2.gemm(flat, np.ascontiguousarray(shares), 1, _NOTHING, 0)
    return sums.reshape(n, height, shares.shape[1]).astype(np.float32, copy=False)


def _shares(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], n: int) -> FloatArray:
    """Return what share of each interval lies in each of `n` cells: (N, n), rows sum to 1."""
    start, end = np.clip(start, 0, n), np.clip(end, 0, n)
    end = np.minimum(np.maximum(end, start + _THIN), n)
    start = np.minimum(start, end - _THIN)
    cell = np.arange(n)
    covered = np.minimum(end[:, None], cell + 1) - np.maximum(start[:, None], cell)
    shares: FloatArray = (covered.clip(0) / (end - start)[:, None]).astype(np.float32)
    return shares


def joined(first: FloatArray, second: FloatArray) -> HalfArray:
    """Return two parts (..., 128) at unit length each, side by side, at unit length: (..., 256)."""
    whole = np.concatenate([first / _length(first), second / _length(second)], axis=-1)
    unit: HalfArray = (whole / _length(whole)).astype(np.float16)
    return unit


def _length(vectors: FloatArray) -> FloatArray:
    length: FloatArray = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    return np.maximum(length, _TINY)
