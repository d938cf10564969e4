"""When frames that come in heaps are due."""

from __future__ import annotations

import pytest

from framegate.stages.decode.camera import EvenPace


def test_a_heap_is_spread_as_its_time_stamps_say() -> None:
    pace = EvenPace()
    assert [pace.due(pts, 100.0) for pts in (7.0, 7.1, 7.5)] == pytest.approx([100, 100.1, 100.5])
    assert pace.due(8.0, 100.6) == pytest.approx(101.0)


@pytest.mark.parametrize(
    ("pts", "now"),
    [(8.0, 105.0), (3.0, 100.5), (500.0, 100.5), (None, 100.5)],
    ids=["late", "back", "far_ahead", "no_pts"],
)
def test_what_does_not_fit_is_due_at_once(pts: float | None, now: float) -> None:
    pace = EvenPace()
    pace.due(7.0, 100.0)
    assert pace.due(pts, now) == now
    if pts is not None:
        assert pace.due(pts + 1.0, now) == pytest.approx(now + 1.0)
