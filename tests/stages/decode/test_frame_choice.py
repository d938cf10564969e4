"""Which frames are wanted: by number, by time, by being a key frame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.source import Frames
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


def coded(groups: list[int], jitter: list[float]) -> list[tuple[float, bool]]:
    """Pictures (time, needed by others) as they are decoded: each group's last one goes before."""
    order: list[tuple[int, bool]] = [(0, True)]
    first = 1
    for size in groups:
        last = first + size
        order += [(last, True), *((number, False) for number in range(first, last))]
        first = last + 1
    return [(n / 25 + jitter[n % len(jitter)], needed) for n, needed in order]


@given(
    st.floats(0.5, 30.0),
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.lists(st.floats(-0.019, 0.019), min_size=1, max_size=7),
    st.integers(1, 6),
)
def test_what_is_left_undecoded_changes_nothing_of_what_is_taken(
    fps: float, groups: list[int], jitter: list[float], delay: int
) -> None:
    """delay: pictures that the decoder holds before it gives the one that is shown first."""
    packets = coded(groups, jitter)
    times = sorted(pts for pts, _ in packets)
    frames = Frames(max_fps=fps)
    choice, held = FrameChoice(frames), list[float]()
    got, skipped, n_decoded = list[float](), 0, 0

    def shown() -> int:
        pts = min(held)
        held.remove(pts)
        passed = choice.left_out(pts)
        if choice.takes(pts):
            got.append(pts)
            return passed
        return passed + 1

    for pts, needed in packets:
        if choice.may_take(pts) or needed:
            held.append(pts)
            n_decoded += 1
        if len(held) > delay + 4:  # else a picture would come before one that is shown earlier
            skipped += shown()
    while held:
        skipped += shown()
    skipped += choice.left_out()
    assert got == [times[n] for n in taken(frames, list(times))]
    assert len(got) + skipped == len(times)
    assert n_decoded <= len(times)


def test_of_pictures_that_none_needs_most_are_left_undecoded() -> None:
    choice, decoded = FrameChoice(Frames(max_fps=5.0)), 0
    packets = coded([3] * 100, [0.0])
    for pts, needed in packets:
        if choice.may_take(pts) or needed:
            decoded += 1
            choice.left_out(pts)
            choice.takes(pts)
    assert len(packets) == 401
    assert decoded < 200  # 101 that others need, and 81 that are wanted or near one


def test_one_of_so_many_needs_all_to_count_them() -> None:
    choice = FrameChoice(Frames(every=2))
    assert all(choice.may_take(n / 25) for n in range(10))
    assert FrameChoice(Frames(max_fps=1.0)).may_take(None)
