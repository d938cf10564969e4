"""Lines and areas beside those of supervision's wheel (MIT), where both mean the same.

What is wanted otherwise, and so left out here: who walks round a line's end crosses it there, and
not here; its areas are whole pixels, ours are exact; by default it looks at four corners.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from framegate.models.geometry import Areas
from tests.support.episodes import result, rules, seen, told

pytestmark = pytest.mark.skipif(
    find_spec("supervision") is None, reason="needs supervision, which trackers brings"
)

GATE = """
[events.lines]
gate = { points = [[0.5, 0.1], [0.5, 0.9]] }
[events.rules.gate]
when = "crosses"
line = "gate"
"""
STEPS = st.lists(st.integers(-90, 90).filter(lambda step: abs(step) >= 30), min_size=1, max_size=8)


def supervision() -> Any:
    """Its import takes a second, which only this file's tests need."""
    return importlib.import_module("supervision")


def by_supervision(places: list[list[float]]) -> list[str]:
    sv = supervision()
    zone = sv.LineZone(
        sv.Point(320, 36), sv.Point(320, 324), triggering_anchors=[sv.Position.BOTTOM_CENTER]
    )
    found = []
    for x, y in places:
        came, left = zone.trigger(
            sv.Detections(
                np.array([[x - 10, y - 40, x + 10, y]]),
                class_id=np.array([0]),
                tracker_id=np.array([1]),
            )
        )
        # Its "in" is from the right of the line to its left; ours is from left to right.
        found += ["out"] * bool(came[0]) + ["in"] * bool(left[0])
    return found


@settings(max_examples=80, deadline=None)
@given(start=st.integers(150, 490), y=st.integers(80, 300), steps=STEPS)
def test_who_goes_to_and_fro_through_a_line(start: int, y: int, steps: list[int]) -> None:
    """In stretches of a second, each of which ends a tenth of a height beside the line at least."""
    ends = [start + sum(steps[:n]) for n in range(len(steps) + 1)]
    assume(all(abs(x - 320) > 8 and 20 < x < 620 for x in ends))
    places = [
        [before + (after - before) * k / 25, float(y)]
        for before, after in pairwise(ends)
        for k in range(25)
    ]
    places += [[float(ends[-1]), float(y)]] * 12
    frames = [result([seen(1, (x, at))], n) for n, (x, at) in enumerate(places)]
    ours = told(rules(GATE), frames, ends=True).of("gate", "start")
    assert [one.direction for one in ours] == by_supervision(places)


@settings(max_examples=80, deadline=None)
@given(
    corners=st.lists(
        st.tuples(st.integers(20, 600), st.integers(20, 340)), min_size=3, max_size=7, unique=True
    ),
    point=st.tuples(st.integers(0, 639), st.integers(0, 359)),
)
def test_who_is_in_an_area(corners: list[tuple[int, int]], point: tuple[int, int]) -> None:
    """Corners in the order of their direction from the middle, so that no edges cross; and not
    within two pixels of an edge, which are whole there.
    """
    middle = np.mean(corners, axis=0)
    around = sorted(corners, key=lambda at: np.arctan2(at[1] - middle[1], at[0] - middle[0]))
    polygon = np.array(around, np.float64)
    assume(_from_edges(polygon, np.array(point, np.float64)) > 2.0)
    [inside] = Areas([[(float(x), float(y)) for x, y in around]]).inside(*point)
    sv = supervision()
    zone = sv.PolygonZone(np.array(around), triggering_anchors=[sv.Position.BOTTOM_CENTER])
    x, y = point
    theirs = zone.trigger(sv.Detections(np.array([[x - 4.0, y - 8.0, x + 4.0, float(y)]])))
    assert inside == theirs[0]


def _from_edges(polygon: np.ndarray[Any, Any], point: np.ndarray[Any, Any]) -> float:
    ends = np.roll(polygon, -1, axis=0)
    along = ends - polygon
    size = np.maximum((along**2).sum(axis=1), 1e-9)
    share = np.clip(((point - polygon) * along).sum(axis=1) / size, 0, 1)
    near = polygon + share[:, None] * along
    return float(np.sqrt(((point - near) ** 2).sum(axis=1)).min())
