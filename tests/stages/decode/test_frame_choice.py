"""Which frames are wanted: by number, by time, by being a key frame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.source import Frames
from framegate.stages.decode.frame import FrameChoice


def taken(frames: Frames, times: list[float | None]) -> list[int]:
    choice = FrameChoice(frames)
    return [number for number, pts in enumerate(times) if choice.takes(pts)]


def test_all_are_taken_by_default() -> None:
    assert taken(Frames(), [0.0, None, 0.0, -5.0]) == [0, 1, 2, 3]


def test_one_of_so_many() -> None:
    assert taken(Frames(every=3), [None] * 8) == [0, 3, 6]


def test_key_frames_only() -> None:
    choice = FrameChoice(Frames(keyframes=True))
    assert [choice.takes_packet(key) for key in (True, False, True)] == [True, False, True]
    assert FrameChoice(Frames()).takes_packet(False)


def test_half_and_two_fifths_of_a_rate() -> None:
    at_25 = [n / 25 for n in range(100)]
    assert len(taken(Frames(max_fps=12.5), at_25)) == 50
    assert len(taken(Frames(max_fps=10.0), at_25)) == 40


def test_a_camera_at_the_wanted_rate_loses_nothing_to_its_jitter() -> None:
    jitter = (0.0, 0.012, -0.012, 0.02, -0.02)
    times = [n / 10 + jitter[n % 5] for n in range(100)]
    assert taken(Frames(max_fps=10.0), times) == list(range(100))


def test_time_that_goes_back_or_leaps_is_followed_at_once() -> None:
    times = [100.0, 100.1, 0.0, 0.05, 0.1, 500.0, 500.05, 500.1]
    assert taken(Frames(max_fps=10.0), times) == [0, 1, 2, 4, 5, 7]


@given(
    st.floats(0.2, 60.0),
    st.lists(st.floats(0.001, 3.0), min_size=1, max_size=200),
)
def test_never_more_than_asked_for(fps: float, gaps: list[float]) -> None:
    """Over any stretch: at most the rate times its length, and one for each end."""
    times, now = [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
    kept = [times[n] for n in taken(Frames(max_fps=fps), list(times))]
    assert len(kept) <= (times[-1] - times[0]) * fps + 2
