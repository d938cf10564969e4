"""The cores that cameras need, as a slot measures them. All figures are worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.fleet.cost_meter import (
    SETTLED_S,
    CostMeter,
    FrameCounts,
    Reading,
    WorkerUse,
    needed_cores,
)

CAMERAS = frozenset({"small", "large"})


def reading(
    mono_s: float, cpu_s: float, small: FrameCounts, large: FrameCounts, pid: int = 1, one: str = ""
) -> Reading:
    """A worker whose large camera has four times the pixels. one: the only source that it has"""
    frame_bytes = {"small": 100.0, "large": 400.0}
    if one:
        frame_bytes = {one: frame_bytes[one]}
    cameras = CAMERAS & frame_bytes.keys()
    return Reading(
        mono_s, [WorkerUse(pid, cpu_s, frame_bytes)], {"small": small, "large": large}, cameras
    )


def test_the_time_of_a_worker_is_divided_by_decoded_pixels() -> None:
    """1.5 s of CPU in 10 s are 0.15 cores; pixels 100 x 100 and 50 x 400 are 1 : 2."""
    before = reading(0.0, 5.0, FrameCounts(0, 0), FrameCounts(0, 0))
    after = reading(10.0, 6.5, FrameCounts(100, 100), FrameCounts(50, 50))
    assert needed_cores(before, after) == pytest.approx({"small": 0.05, "large": 0.10})


def test_a_camera_that_drops_frames_needs_more_than_it_gets() -> None:
    """Half of its frames are published, so it needs twice the cores that it used."""
    before = reading(0.0, 0.0, FrameCounts(0, 0), FrameCounts(7, 7), one="small")
    after = reading(10.0, 5.0, FrameCounts(100, 50), FrameCounts(7, 7), one="small")
    assert needed_cores(before, after) == pytest.approx({"small": 1.0})
    hardly = reading(10.0, 5.0, FrameCounts(100, 1), FrameCounts(7, 7), one="small")
    assert needed_cores(before, hardly) == pytest.approx({"small": 2.0}), "4 times at most"


def test_a_camera_that_publishes_nothing_and_a_worker_that_was_restarted_measure_nothing() -> None:
    before = reading(0.0, 9.0, FrameCounts(10, 10), FrameCounts(0, 0))
    after = reading(10.0, 9.5, FrameCounts(10, 10), FrameCounts(100, 100))
    assert needed_cores(before, after) == pytest.approx({"large": 0.05})
    again = reading(10.0, 0.5, FrameCounts(90, 90), FrameCounts(100, 100), pid=2)
    assert needed_cores(before, again) == {}


def test_a_file_takes_its_share_but_has_no_cost() -> None:
    before = reading(0.0, 0.0, FrameCounts(0, 0), FrameCounts(0, 0))
    after = Reading(
        10.0,
        [WorkerUse(1, 2.0, {"small": 100.0, "large": 400.0})],
        {"small": FrameCounts(100, 100), "large": FrameCounts(25, 25)},
        frozenset({"small"}),
    )
    assert needed_cores(before, after) == pytest.approx({"small": 0.1})


def fed(meter: CostMeter, cores: float, begin_s: float, seconds: float) -> None:
    """Let one camera use these cores for a time, in steps of 15 s."""
    for step in range(int(seconds / 15) + 1):
        at = begin_s + 15 * step
        frames = FrameCounts(int(10 * at), int(10 * at))
        meter.add(reading(at, cores * at, frames, FrameCounts(0, 0), one="small"))


def test_a_cost_is_given_when_it_was_measured_for_two_minutes() -> None:
    meter = CostMeter()
    fed(meter, 0.3, 0.0, SETTLED_S - 15)
    assert meter.costs() == {}
    fed(meter, 0.3, SETTLED_S, 0.0)
    assert meter.costs() == {"small": 0.3}


def test_a_short_peak_changes_the_cost_little_and_a_lasting_change_is_followed() -> None:
    """A mean of 600 s at 0.2 cores, then 15 s at 2: 0.2 + (1 - exp(-15 / 300)) x 1.8 = 0.288."""
    meter = CostMeter()
    fed(meter, 0.2, 0.0, 600.0)
    end = FrameCounts(6150, 6150)
    meter.add(reading(615.0, 0.2 * 600 + 2.0 * 15, end, FrameCounts(0, 0), one="small"))
    assert meter.costs() == {"small": pytest.approx(0.288, abs=0.001)}
    used_s = 0.2 * 600 + 2.0 * 15
    for step in range(1, 101):  # 1,500 s at 2 cores, 5 times the constant
        frames = FrameCounts(6150 + 150 * step, 6150 + 150 * step)
        at, cpu_s = 615.0 + 15 * step, used_s + 30.0 * step
        meter.add(reading(at, cpu_s, frames, FrameCounts(0, 0), one="small"))
    assert meter.costs() == {"small": pytest.approx(2.0, abs=0.02)}


def test_a_camera_that_leaves_is_forgotten() -> None:
    meter = CostMeter()
    fed(meter, 0.3, 0.0, 300.0)
    gone = FrameCounts(0, 0)
    meter.add(reading(315.0, 0.0, gone, gone, one="large"))
    assert meter.costs() == {}
    meter.add(reading(330.0, 99.0, FrameCounts(3300, 3300), gone, one="small"))
    assert meter.costs() == {}, "its time begins again"


COUNTS = st.builds(FrameCounts, st.integers(0, 1000), st.integers(0, 1000))
CPU = st.floats(0.0, 1000.0)


@given(CPU, CPU, COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0.1, 100.0))
def test_costs_are_bounded_whatever_the_counters(
    cpu: float,
    more: float,
    a: FrameCounts,
    b: FrameCounts,
    c: FrameCounts,
    d: FrameCounts,
    seconds: float,
) -> None:
    """Also counters that a rolled-back store gives, which are smaller than before."""
    found = needed_cores(reading(0.0, cpu, a, b), reading(seconds, cpu + more, c, d))
    assert all(0.0 <= cores <= 1024.0 for cores in found.values())
    assert sum(found.values()) <= 4.0 * more / seconds + 1e-9
