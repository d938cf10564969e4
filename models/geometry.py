"""Areas, lines and the ground of a picture.

Coordinates are pixels, x to the right and y down; any unit with equal axes works. Areas and lines
take plain numbers, because numpy is slower for the few points of a frame.
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
"""Upper y, lower y, x at the upper end, and the change of x per y."""


class Areas:
    """Polygons. A point on an edge that two polygons share is inside exactly one of them, so areas
    that tile a floor count each object exactly once.

    Method: crossings of a ray to the right. Edges are half-open: the upper end belongs to them.
    """

    def __init__(self, polygons: Sequence[Points]) -> None:
        """polygons: corners in order, three or more each. Raises ValueError for fewer."""
        self._areas: list[tuple[float, float, list[AreaEdge]]] = []
        for corners in polygons:
            if len(corners) < 3:
                raise ValueError(f"an area must have three or more corners, got {len(corners)}")
            edges = []
            for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
                # Sorted, so that a shared edge gives the same numbers in both of its areas.
                (x, low), (u, high) = sorted((start, end), key=lambda point: (point[1], point[0]))
                if low < high:  # the ray never crosses a horizontal edge
                    edges.append((low, high, x, (u - x) / (high - low)))
            heights = [y for _, y in corners]
            self._areas.append((min(heights), max(heights), edges))

    def __len__(self) -> int:
        return len(self._areas)

    def inside(self, x: float, y: float) -> list[bool]:
        """Return for each area whether it contains the point."""
        inside = []
        for top, bottom, edges in self._areas:
            is_inside = False
            if top <= y < bottom:
                for low, high, start, slope in edges:
                    if low <= y < high and x < start + (y - low) * slope:
                        is_inside = not is_inside
            inside.append(is_inside)
        return inside


class Lines:
    """Polylines with a direction: left and right as seen by a person who walks along the line."""

    def __init__(self, lines: Sequence[Points]) -> None:
        """lines: two or more points each, in order; equal neighbours raise ValueError."""
        for points in lines:
            if len(points) < 2 or any(a == b for a, b in pairwise(points)):
                raise ValueError("a line must have two or more points, and neighbours must differ")
        self.is_straight = [len(points) == 2 for points in lines]
        """For each line: it has two points, so no path between points on one side crosses it."""
        self._spans = [[_segment(*ends) for ends in pairwise(points)] for points in lines]
        self._pieces = [_pieces(points) for points in lines]
        self._bounds = [
            (min(x for x, _ in points), min(y for _, y in points),
             max(x for x, _ in points), max(y for _, y in points))
            for points in lines
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self._spans)

    def distances(self, x: float, y: float) -> list[float]:
        """Return the signed distance of a point from each line, positive to the right of it.

        The distance is that from the nearest segment, extended without end, so a point beyond the
        end of a line is also on one side of it.
        """
        distances = []
        for spans in self._spans:
            if len(spans) == 1:
                start_x, start_y, across, down, _ = spans[0]
                distances.append((y - start_y) * across - (x - start_x) * down)
            else:
                distances.append(_nearest(spans, x, y))
        return distances

    def sides(self, x: float, y: float) -> tuple[int, ...]:
        """Return the side of each line that a point is on: 1 right of it or on it, -1 left."""
        return tuple([2 * (distance >= 0) - 1 for distance in self.distances(x, y)])

    def meets(
        self, line: int, before: tuple[float, float], after: tuple[float, float]
    ) -> tuple[int, float]:
        """Return how often a straight path crosses a line, and where it last does, 0..1.

        line  number of the line. Without a crossing the second value has no meaning.

        A point on a line counts as right of it. So an object that stops on the line or passes
        through a corner crosses it exactly once.
        """
        x, y = before
        u, v = after
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
            start_is_right = _is_right(path, (a - x, b - y), start_left)
            end_is_right = _is_right(path, (c - x, d - y), end_left)
            if start_is_right != end_is_right:
                count += 1
                last = max(last, from_side / (from_side - to_side))
        return count, last


class LineSegment(NamedTuple):
    """A segment: its start (x, y), its direction (u, v) with length 1, and its length."""

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
    """Return the signed distance from the nearest segment.

    At a corner two segments are equally near; the one with the larger perpendicular distance
    decides the side.
    """
    candidates = []
    for span in spans:
        across = (y - span.y) * span.u - (x - span.x) * span.v
        along = (x - span.x) * span.u + (y - span.y) * span.v
        candidates.append((math.hypot(across, along - min(max(along, 0.0), span.length)), across))
    near = min(gap for gap, _ in candidates) * (1 + 1e-9) + 1e-9
    return max((across for gap, across in candidates if gap <= near), key=abs)


def _is_right(
    path: tuple[float, float], offset: tuple[float, float], left: tuple[float, float]
) -> bool:
    """Return whether a point is right of a path.

    offset  from the start of the path to the point
    left    direction in which a point that is exactly on the path is moved first
    """
    side = path[0] * offset[1] - path[1] * offset[0]
    if side == 0:
        side = path[0] * left[1] - path[1] * left[0]
    return side >= 0


Piece: TypeAlias = tuple[
    tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]
]


def _pieces(points: Points) -> list[Piece]:
    """Return the start and end of each segment, and the direction to its left at both ends.

    At a corner this direction lies between those of the two segments.
    """
    lefts = []
    for (a, b), (c, d) in pairwise(points):
        length = math.hypot(c - a, d - b)
        lefts.append(((d - b) / length, (a - c) / length))
    corners = [(a + c, b + d) for (a, b), (c, d) in pairwise(lefts)]
    starts, ends = [lefts[0], *corners], [*corners, lefts[-1]]
    return list(zip(points[:-1], points[1:], starts, ends, strict=True))


class Ground:
    """The flat ground of a picture, defined by four points with known positions in metres.

    Method: the homography through four point pairs (Hartley and Zisserman, Multiple View Geometry,
    4.1) as the null space of their equations, because the picture's corner may be on the horizon.
    """

    def __init__(self, pixels: Points, metres: Points) -> None:
        """Take four points each. Raises ValueError if three of them lie on a line."""
        if len(pixels) != 4 or len(metres) != 4:
            counts = f"got {len(pixels)} and {len(metres)}"
            raise ValueError(f"the ground needs four points in pixels and in metres, {counts}")
        rows = []
        for (x, y), (u, v) in zip(pixels, metres, strict=True):
            rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y, -u])
            rows.append([0, 0, 0, x, y, 1, -v * x, -v * y, -v])
        _, sizes, spaces = np.linalg.svd(np.array(rows, np.float64))
        if sizes[-1] < 1e-12 * sizes[0]:
            raise ValueError("three of the four points lie on a line")
        self._matrix = spaces[-1].reshape(3, 3)

    def metres(self, points: Coordinates) -> Coordinates:
        """Return positions on the ground, float64 (P, 2) in metres, of picture points (P, 2)."""
        homogeneous = np.column_stack([points, np.ones(len(points))]) @ self._matrix.T
        positions: Coordinates = homogeneous[:, :2] / homogeneous[:, 2:]
        return positions
