"""Areas, lines and the ground, against what can be said of them by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.models.geometry import Areas, Ground, Lines

SQUARE = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]
WHOLE = st.integers(-3, 13)


def test_a_point_is_inside_or_not() -> None:
    notch = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (5.0, 5.0), (0.0, 10.0)]
    points = [(5.0, 2.0), (5.0, 8.0), (1.0, 8.0), (9.0, 8.0), (-1.0, 5.0), (11.0, 5.0)]
    inside = [Areas([SQUARE, notch]).inside(*point) for point in points]
    assert [square for square, _ in inside] == [True, True, True, True, False, False]
    assert [notched for _, notched in inside] == [True, False, True, True, False, False]


@given(x=WHOLE, y=WHOLE, at=st.integers(1, 9), turn=st.booleans())
def test_areas_that_tile_a_floor_have_each_of_its_points_once(
    x: int, y: int, at: int, turn: bool
) -> None:
    """The edge between the two is slanted, and listed one way and the other."""
    left = [(0, 0), (at, 0), (10 - at, 10), (0, 10)]
    right = [(at, 0), (10, 0), (10, 10), (10 - at, 10)]
    tiles = [left, right[::-1] if turn else right]
    both = Areas([[(float(a), float(b)) for a, b in one] for one in tiles]).inside(x, y)
    assert sum(both) == sum(Areas([SQUARE]).inside(x, y))


def test_nothing_in_nothing() -> None:
    assert Areas([]).inside(0.0, 0.0) == []
    assert Lines([]).distances(0.0, 0.0) == []
    assert Lines([]).sides(0.0, 0.0) == ()
    with pytest.raises(ValueError, match="three or more"):
        Areas([SQUARE[:2]])
    with pytest.raises(ValueError, match="two or more"):
        Lines([[(1.0, 1.0), (1.0, 1.0)]])


def test_right_of_a_line_is_as_one_walks_along_it() -> None:
    """y goes down, so who walks to the right has what is further down at the right."""
    line = Lines([[(0.0, 5.0), (10.0, 5.0)]])
    points = [(5.0, 8.0), (5.0, 1.0), (90.0, 6.0), (5.0, 5.0)]
    assert [line.distances(*point) for point in points] == [[3.0], [-4.0], [1.0], [0.0]]
    assert [line.sides(*point) for point in points] == [(1,), (-1,), (1,), (1,)]


def test_a_corner_has_its_sides_too() -> None:
    corner = Lines([[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)]])
    assert corner.distances(5.0, 3.0) == [3.0]
    assert corner.distances(5.0, -3.0) == [-3.0]
    [beyond] = corner.distances(13.0, -3.0)
    assert beyond < 0
    assert corner.sides(13.0, -3.0) == (-1,)


def _meets(line: list[tuple[float, float]], *path: tuple[float, float]) -> int:
    return sum(Lines([line]).meets(0, *step)[0] for step in pairwise(path))


def test_paths_meet_a_line_as_often_as_they_do() -> None:
    gate = [(0.0, 5.0), (10.0, 5.0)]
    assert _meets(gate, (5, 0), (5, 9)) == 1
    assert _meets(gate, (5, 0), (5, 5), (5, 9)) == 1, "a stop on the line"
    assert _meets(gate, (5, 0), (5, 5), (5, 0)) in (0, 2), "to the line and back"
    assert _meets(gate, (12, 0), (12, 9)) == 0, "round its end"
    assert _meets(gate, (3, 5), (7, 5)) == 0, "along it"
    zigzag = [(0.0, 5.0), (5.0, 5.0), (5.0, 6.0), (10.0, 6.0)]
    assert _meets(zigzag, (5, 0), (5, 9)) % 2 == 1, "along one of its pieces"
    assert Lines([gate]).meets(0, (5.0, 0.0), (5.0, 10.0)) == (1, 0.5)


@given(path=st.lists(st.tuples(WHOLE, WHOLE), min_size=2, max_size=12))
@example(path=[(0, 5), (5, 6)])  # from a corner, and back
def test_a_closed_path_meets_any_line_that_nobody_can_walk_round_evenly(
    path: list[tuple[int, int]],
) -> None:
    """The line goes from one side of all that paths reach to the other, through whole points."""
    line = [(-20.0, 5.0), (0.0, 5.0), (5.0, 8.0), (9.0, 2.0), (20.0, 5.0)]
    closed = [(float(x), float(y)) for x, y in [*path, path[0]]]
    assert _meets(line, *closed) % 2 == 0


def test_metres_on_the_ground() -> None:
    pixels = [(100.0, 200.0), (300.0, 200.0), (400.0, 400.0), (0.0, 400.0)]
    ground = Ground(pixels, [(0.0, 0.0), (4.0, 0.0), (4.0, 6.0), (0.0, 6.0)])
    assert ground.metres(np.array(pixels)) == pytest.approx(
        np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 6.0], [0.0, 6.0]]), abs=1e-9
    )
    middle = ground.metres(np.array([[200.0, 300.0]]))[0]
    assert middle[0] == pytest.approx(2.0)
    assert middle[1] > 3.0, "half down in the picture is further than half away"
    with pytest.raises(ValueError, match="lie on a line"):
        Ground([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0)], pixels)
