"""When a frame is due at its own pace: simulated with a clock that jumps to what is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from framegate.pipeline.ingest.due_times import SLACK_S, Pace

Stamps = Sequence[float | None]


def played(stamps: Stamps, name: str = "realtime", ready_after_s: float = 0.0) -> list[float]:
    """Seconds from the start at which each frame goes out, if the waiter wakes just in time.

    ready_after_s  what the decoder takes for each frame
    """
    pace, now, out = Pace(name), 1000.0, []
    for number, pts in enumerate(stamps):
        ready = max(now, 1000.0 + number * ready_after_s)
        now = ready + pace.wait_s(pts, ready, ready)
        assert pace.wait_s(pts, ready, now) == pytest.approx(0.0)
        pace.passed(pts, ready)
        out.append(now - 1000.0)
    return out


def test_fast_never_waits() -> None:
    assert played([0.0, 100.0, 5.0, None], "fast") == [0.0] * 4


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([0.0, 0.5, 1.0], [0.0, 0.5, 1.0]),
        ([7.0, 7.5, 9.0], [0.0, 0.5, 2.0]),
        ([-1.0, 0.0], [0.0, 1.0]),
        ([0.0, 2.0, 1.0, 3.0], [0.0, 2.0, 2.0, 3.0]),
        ([0.0, None, 1.0, None, 2.0], [0.0, 0.0, 1.0, 1.0, 2.0]),
        ([None, None, 4.0, 5.0], [0.0, 0.0, 0.0, 1.0]),
        ([None, None], [0.0, 0.0]),
    ],
)
def test_realtime(stamps: Stamps, times: list[float]) -> None:
    assert played(stamps) == pytest.approx(times)


def test_a_slow_decoder_is_made_up_for() -> None:
    """Late frames go out at once, and the next is due as if nothing had happened."""
    pace = Pace("realtime")
    assert pace.wait_s(0.0, 50.0, 50.0) == 0.0
    pace.passed(0.0, 50.0)
    assert pace.wait_s(1.0, 53.0, 53.0) == 0.0
    pace.passed(1.0, 53.0)
    assert pace.wait_s(4.0, 53.0, 53.0) == pytest.approx(1.0)


def test_frames_within_the_slack_go_together() -> None:
    pace = Pace("realtime")
    pace.passed(0.0, 50.0)
    assert pace.wait_s(SLACK_S / 2, 50.0, 50.0) == 0.0
    assert pace.wait_s(SLACK_S * 2, 50.0, 50.0) == pytest.approx(SLACK_S * 2)


def test_one_that_goes_on_for_another_keeps_its_times() -> None:
    before = Pace("realtime")
    assert before.shift is None
    before.passed(0.0, 50.0)
    after = Pace("realtime", before.shift)
    assert after.wait_s(40.0, 61.0, 61.0) == pytest.approx(29.0)
    assert after.wait_s(5.0, 61.0, 61.0) == 0.0
    assert Pace("fast", before.shift).wait_s(40.0, 61.0, 61.0) == 0.0


@given(st.lists(st.none() | st.floats(-1e4, 1e4), max_size=30))
def test_order_is_kept_and_no_frame_is_early(stamps: list[float | None]) -> None:
    times = played(stamps)
    assert times == sorted(times)
    known = [(pts, at) for pts, at in zip(stamps, times, strict=True) if pts is not None]
    for pts, at in known:
        assert at - known[0][1] >= pts - known[0][0] - SLACK_S - 1e-6
