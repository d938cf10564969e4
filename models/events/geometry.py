"""Areas, lines and the ground under a picture: points in, decisions out.

Coordinates are pixels, x to the right and y down; any other unit in which both axes are equally
long does, too. Areas and lines take plain numbers: of the few points and edges that a frame has,
numpy takes longer to begin than to end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Coordinates: TypeAlias = npt.NDArray[np.float64]
Points: TypeAlias = Sequence[tuple[float, float]]
AreaEdge: TypeAlias = tuple[float, float, float, float]
"""From which height down to which, x at the upper end, and how x changes with y."""


class Areas:
    """Polygons. A point on an edge that two of them share is in exactly one, so that areas which
    tile a floor count nobody twice and nobody never.

    Method: crossings of a ray to the right, each edge half-open (its lower end belongs to it).
    """

    def __init__(self, polygons: Sequence[Points]) -> None:
        """polygons: each three or more corners, in order; ValueError for fewer."""
        self._areas: list[tuple[float, float, list[AreaEdge]]] = []
        for corners in polygons:
            if len(corners) < 3:
                raise ValueError(f"{len(corners)} corners; an area has three or more")
            edges = []
            for one, other in zip(corners, [*corners[1:], corners[0]], strict=True):
                # The same edge of two areas is computed the same way, whoever lists it which way.
                (x, low), (u, high) = sorted((one, other), key=lambda point: (point[1], point[0]))
                if low < high:  # a level one is never met
                    edges.append((low, high, x, (u - x) / (high - low)))
            heights = [y for _, y in corners]
            self._areas.append((min(heights), max(heights), edges))

    def __len__(self) -> int:
        return len(self._areas)

    def inside(self, x: float, y: float) -> list[bool]:
        """In which areas a point is."""
        found = []
        for top, bottom, edges in self._areas:
            is_inside = False
            if top <= y < bottom:
                for low, high, start, slope in edges:
                    if low <= y < high and x < start + (y - low) * slope:
                        is_inside = not is_inside
            found.append(is_inside)
        return found


class Lines:
    """Poly-lines with a direction: left and right are as for one who walks along in their order."""

    def __init__(self, lines: Sequence[Points]) -> None:
        """lines: each two or more points, in order; ValueError for fewer, or equal neighbours."""
        for points in lines:
            if len(points) < 2 or any(a == b for a, b in pairwise(points)):
                raise ValueError("a line has two or more points, and neighbours differ")
        self.is_straight = [len(points) == 2 for points in lines]
        """Of each: it has no corner, so no path between two points on one side meets it."""
        spans = [[_segment(*ends) for ends in pairwise(points)] for points in lines]
        self._spans = [(each[0], each if len(each) > 1 else ()) for each in spans]
        self._pieces = [_pieces(points) for points in lines]
        self._bounds = [
            (min(x for x, _ in points), min(y for _, y in points),
             max(x for x, _ in points), max(y for _, y in points))
            for points in lines
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self._spans)

    def distances(self, x: float, y: float) -> list[float]:
        """Signed distances of a point from each line, right of it > 0.

        It is the distance from the nearest segment, which counts as without ends: who stands beside
        the end of a line is on one side of it, too.
        """
        return [
            _nearest(bent, x, y) if bent else (y - b) * u - (x - a) * v
            for (a, b, u, v, _), bent in self._spans
        ]

    def sides(self, x: float, y: float) -> tuple[int, ...]:
        """On which side of each line a point is: 1 right of it or on it, -1 left."""
        return tuple(
            [
                1 if (_nearest(bent, x, y) if bent else (y - b) * u - (x - a) * v) >= 0 else -1
                for (a, b, u, v, _), bent in self._spans
            ]
        )

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


class LineSegment(NamedTuple):
    """A segment: where it begins, which way it goes, by a length of one, and how far."""

    x: float
    y: float
    u: float
    v: float
    length: float


def _segment(start: tuple[float, float], end: tuple[float, float]) -> LineSegment:
    (a, b), (c, d) = start, end
    length = math.hypot(c - a, d - b)
    return LineSegment(a, b, (c - a) / length, (d - b) / length, length)


def _nearest(spans: Sequence[LineSegment], x: float, y: float) -> float:
    """The signed distance from the nearest segment. At a corner two are equally near: the one that
    is faced more tells the side.
    """
    found = []
    for span in spans:
        across = (y - span.y) * span.u - (x - span.x) * span.v
        along = (x - span.x) * span.u + (y - span.y) * span.v
        found.append((math.hypot(across, along - min(max(along, 0.0), span.length)), across))
    near = min(gap for gap, _ in found) * (1 + 1e-9) + 1e-9
    return max((across for gap, across in found if gap <= near), key=abs)


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
