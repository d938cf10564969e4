"""Areas, lines and the ground under a picture: points in, decisions out, all of them at once.

Coordinates are pixels, x to the right and y down; any other unit in which both axes are equally
long does, too. All is vectorised over points and edges: a few tracks and a few dozen edges cost as
much as one of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray

Coordinates: TypeAlias = npt.NDArray[np.float64]
Points: TypeAlias = Sequence[tuple[float, float]]


class Areas:
    """Polygons. A point on an edge that two of them share is in exactly one, so that areas which
    tile a floor count nobody twice and nobody never.

    Method: crossings of a ray to the right, each edge half-open (its lower end belongs to it).
    """

    def __init__(self, polygons: Sequence[Points]) -> None:
        """polygons: each three or more corners, in order; ValueError for fewer."""
        starts: list[tuple[float, float]] = []
        ends: list[tuple[float, float]] = []
        first: list[int] = []
        for corners in polygons:
            if len(corners) < 3:
                raise ValueError(f"{len(corners)} corners; an area has three or more")
            first.append(len(starts))
            for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
                # The same edge of two areas is computed the same way, whoever lists it which way.
                low, high = sorted((a, b), key=lambda point: (point[1], point[0]))
                starts.append(low)
                ends.append(high)
        low_ends = np.array(starts, np.float64).reshape(-1, 2)
        high_ends = np.array(ends, np.float64).reshape(-1, 2)
        rise = high_ends[:, 1] - low_ends[:, 1]
        slope = (high_ends[:, 0] - low_ends[:, 0]) / np.where(rise == 0, 1.0, rise)
        self._x, self._low, self._high = low_ends[:, 0], low_ends[:, 1], high_ends[:, 1]
        self._slope = slope
        self._first = np.array(first, np.intp)

    def __len__(self) -> int:
        return len(self._first)

    def inside(self, points: Coordinates) -> BoolArray:
        """Which points, float64 (P, 2), are in which area: bool (P, areas)."""
        if not len(self._first) or not len(points):
            return np.zeros((len(points), len(self._first)), np.bool_)
        x, y = points[:, :1], points[:, 1:]
        spans = (self._low <= y) & (y < self._high)
        hits = spans & (x < self._x + (y - self._low) * self._slope)
        return np.logical_xor.reduceat(hits, self._first, axis=1)


class Lines:
    """Poly-lines with a direction: left and right are as for one who walks along in their order."""

    def __init__(self, lines: Sequence[Points]) -> None:
        """lines: each two or more points, in order; ValueError for fewer, or equal neighbours."""
        starts: list[tuple[float, float]] = []
        ends: list[tuple[float, float]] = []
        first: list[int] = []
        last: list[int] = []
        for points in lines:
            if len(points) < 2 or any(a == b for a, b in pairwise(points)):
                raise ValueError("a line has two or more points, and neighbours differ")
            first.append(len(starts))
            starts += points[:-1]
            ends += points[1:]
            last.append(len(starts) - 1)
        self._start = np.array(starts, np.float64).reshape(-1, 2)
        self._end = np.array(ends, np.float64).reshape(-1, 2)
        self._along = self._end - self._start
        self._length = np.hypot(self._along[:, 0], self._along[:, 1])
        self._first = np.array(first, np.intp)
        self._ranges = list(zip(first, [one + 1 for one in last], strict=True))
        self.is_straight = [len(points) == 2 for points in lines]
        """Of each: it has no corner, so no path between two points on one side meets it."""
        self._pieces = [_pieces(points) for points in lines]
        self._bounds = [
            (min(x for x, _ in points), min(y for _, y in points),
             max(x for x, _ in points), max(y for _, y in points))
            for points in lines
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self._first)

    def distances(self, points: Coordinates) -> Coordinates:
        """Signed distances of points, float64 (P, 2), from each line: (P, lines), right of it > 0.

        It is the distance from the nearest segment, which counts as without ends: who stands beside
        the end of a line is on one side of it, too.
        """
        if not len(self._first) or not len(points):
            return np.zeros((len(points), len(self._first)))
        offset = points[:, None, :] - self._start
        across = _cross(self._along, offset) / self._length
        if all(self.is_straight):
            return across
        share = np.einsum("psk,sk->ps", offset, self._along) / self._length**2
        clamped = np.clip(share, 0.0, 1.0)[..., None] * self._along
        gap = np.hypot(*np.moveaxis(offset - clamped, -1, 0))
        chosen = np.empty((len(points), len(self._first)))
        for line, (begin, end) in enumerate(self._ranges):
            near, signed = gap[:, begin:end], across[:, begin:end]
            # At a corner two segments are equally near: the one that is faced more tells the side.
            is_nearest = near <= near.min(axis=1, keepdims=True) * (1 + 1e-9) + 1e-9
            faced = np.where(is_nearest, np.abs(signed), -1.0).argmax(axis=1)
            chosen[:, line] = signed[np.arange(len(points)), faced]
        return chosen

    def meets(
        self, line: int, before: tuple[float, float], after: tuple[float, float]
    ) -> tuple[int, float]:
        """How often a straight path meets a line, by its number; and where on the path the last
        meeting is, 0 to 1 (no meaning where there is none).

        A point on a line is right of it, as if the line lay a hair further to the left: so who
        stops on it, or walks through a corner, meets it once and not twice or never. Plain numbers:
        it is asked of the few paths that come near a line.
        """
        (x, y), (u, v) = before, after
        left, top, right, bottom = self._bounds[line]
        if max(x, u) < left or min(x, u) > right or max(y, v) < top or min(y, v) > bottom:
            return 0, 0.0
        count, last = 0, 0.0
        for (a, b), (c, d), start_left, end_left in self._pieces[line]:
            from_side = (c - a) * (y - b) - (d - b) * (x - a)
            to_side = (c - a) * (v - b) - (d - b) * (u - a)
            if (from_side >= 0) == (to_side >= 0):
                continue
            path = (u - x, v - y)
            if _is_right(path, (a - x, b - y), start_left) != _is_right(
                path, (c - x, d - y), end_left
            ):
                count += 1
                last = max(last, from_side / (from_side - to_side))
        return count, last


def _is_right(
    path: tuple[float, float], offset: tuple[float, float], left: tuple[float, float]
) -> bool:
    """On which side of a path a point is; of one on it, where it would be a hair further left."""
    side = path[0] * offset[1] - path[1] * offset[0]
    return (side or path[0] * left[1] - path[1] * left[0]) >= 0


Piece: TypeAlias = tuple[
    tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]
]


def _pieces(points: Points) -> list[Piece]:
    """From where to where each piece of a line goes, and what is left of it at its two ends: in a
    corner that is between the left of the one piece and of the other.
    """
    lefts = []
    for (a, b), (c, d) in pairwise(points):
        length = math.hypot(c - a, d - b)
        lefts.append(((d - b) / length, (a - c) / length))
    corners = [(a + c, b + d) for (a, b), (c, d) in pairwise(lefts)]
    starts, ends = [lefts[0], *corners], [*corners, lefts[-1]]
    return list(zip(points[:-1], points[1:], starts, ends, strict=True))


def _cross(one: Coordinates, other: Coordinates) -> Coordinates:
    product: Coordinates = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    return product


class Ground:
    """The flat ground under a picture, by four of its points whose places are known in metres.

    Method: the homography through four point pairs (Hartley and Zisserman, Multiple View Geometry,
    4.1), the null space of their equations: the picture's corner may be on the horizon.
    """

    def __init__(self, pixels: Points, metres: Points) -> None:
        """Four points each, no three of them on a line; ValueError else."""
        if len(pixels) != 4 or len(metres) != 4:
            raise ValueError("four points in the picture and the same four in metres")
        rows = []
        for (x, y), (u, v) in zip(pixels, metres, strict=True):
            rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y, -u])
            rows.append([0, 0, 0, x, y, 1, -v * x, -v * y, -v])
        _, sizes, spaces = np.linalg.svd(np.array(rows, np.float64))
        if sizes[-1] < 1e-12 * sizes[0]:
            raise ValueError("three of the four points lie on a line")
        self._matrix = spaces[-1].reshape(3, 3)

    def metres(self, points: Coordinates) -> Coordinates:
        """Places on the ground, float64 (P, 2) in metres, of points in the picture (P, 2)."""
        seen = np.column_stack([points, np.ones(len(points))]) @ self._matrix.T
        far: Coordinates = seen[:, :2] / seen[:, 2:]
        return far
