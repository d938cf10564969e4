"""Limits of age that never exceed what was promised, and tiles inside polygons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from framegate.models.gate.cells import Grid, ignored_tiles
from framegate.models.gate.state import age_limit

whole_numbers = st.integers(-(2**63), 2**63 - 1)


@given(
    seconds=st.floats(0, 1e6),
    key=st.binary(max_size=64),
    position=st.lists(whole_numbers, max_size=3).map(tuple),
)
def test_a_limit_is_never_above_the_stated_one(
    seconds: float, key: bytes, position: tuple[int, ...]
) -> None:
    limit = age_limit(seconds, key, position)
    assert seconds * 0.66 <= limit <= seconds
    assert limit == age_limit(seconds, key, position)


def test_limits_are_spread_evenly() -> None:
    drawn = np.array([age_limit(1.2, b"cam", (1, seq)) for seq in range(4000)])
    assert np.histogram(drawn, 8, (0.8, 1.2))[0].min() > 420
    other = np.array([age_limit(1.2, b"cam2", (1, seq)) for seq in range(4000)])
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.06


def test_a_key_that_the_hash_would_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bytes, got 65"):
        age_limit(1.0, bytes(65), ())


corners = st.integers(-20, 100)


@settings(max_examples=60, deadline=None)
@example(points=[(0, -13), (0, 45), (22, 5)])
@given(points=st.lists(st.tuples(corners, corners), min_size=3, max_size=6))
def test_a_tile_is_ignored_only_when_it_lies_inside(points: list[tuple[int, int]]) -> None:
    grid = Grid(70, 50, 4)
    ignored = ignored_tiles([points], grid)
    at = (np.arange(280) + 0.5) / 4  # four samples a pixel, none on a whole number
    inside = even_odd(points, *np.meshgrid(at, at[:200]))
    for row, column in np.ndindex(grid.tiles):
        tile = inside[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        if ignored[row, column]:
            assert tile.all()
    if len(points) == 3:
        assert ignored.tolist() == corners_inside(points, grid)


def even_odd(points: list[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inside = np.zeros(x.shape, np.bool_)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def corners_inside(triangle: list[tuple[int, int]], grid: Grid) -> list[list[bool]]:
    """For each tile whether its four corners are in the triangle, which is convex: exactly."""
    (ax, ay), (bx, by), (cx, cy) = triangle
    turn = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    def inside(x: int, y: int) -> bool:
        sides = zip(triangle, [*triangle[1:], triangle[0]], strict=True)
        return turn != 0 and all(
            ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) * turn >= 0
            for (x0, y0), (x1, y1) in sides
        )

    return [
        [
            all(inside(min(x, 70), min(y, 50)) for x in (left, left + 16) for y in (top, top + 16))
            for left in range(0, 16 * grid.tile_columns, 16)
        ]
        for top in range(0, 16 * grid.tile_rows, 16)
    ]


def test_masks_of_everyday_shapes() -> None:
    grid = Grid(70, 50, 4)  # tiles of 16 px: 5 x 4, the last ones smaller
    assert ignored_tiles([], grid).sum() == 0
    assert ignored_tiles([[(0, 0), (70, 0), (70, 50), (0, 50)]], grid).all()
    banner = ignored_tiles([[(0, 0), (70, 0), (70, 17), (0, 17)]], grid)
    assert banner.sum(1).tolist() == [5, 0, 0, 0]
    end = ignored_tiles([[(64, 48), (70, 48), (70, 50), (64, 50)]], grid)
    assert np.argwhere(end).tolist() == [[3, 4]]
    ell = ignored_tiles([[(0, 0), (48, 0), (48, 16), (16, 16), (16, 48), (0, 48)]], grid)
    assert np.argwhere(ell).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]]
