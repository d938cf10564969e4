"""The gate's rivals: what they look at, what they show in between, and where motion rules look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.agreement import Tracked
from benchmarks.harness.clips import NoClip
from benchmarks.harness.gate_clips import find_clips
from benchmarks.rivals.motion_rules import MotionRule, PreviousFrame, RunningAverage, merged
from benchmarks.rivals.region_rival import Known, RegionDetector, regions
from benchmarks.rivals.subsampling import PHASES, Subsampling, carried, looks, moved
from framegate.models.boxes import Boxes, empty
from framegate.models.detector import detector
from framegate.models.picture import Picture

Array = npt.NDArray[Any]
SIZE = (416, 256)
rng = np.random.default_rng(7)
BACKGROUND = rng.integers(60, 90, (SIZE[1], SIZE[0]), np.uint8)
TEXTURE = np.kron(rng.integers(0, 255, (10, 10), np.uint8), np.ones((4, 4), np.uint8))


def picture(luma: Array) -> Picture:
    half = np.full(((luma.shape[0] + 1) // 2, (luma.shape[1] + 1) // 2), 128, np.uint8)
    return Picture(luma, half, half)


def with_object(left: int, top: int) -> Picture:
    luma = BACKGROUND.copy()
    luma[top : top + 40, left : left + 40] = TEXTURE
    return picture(luma)


def box(*xyxy: float) -> Boxes:
    return Boxes(np.array([xyxy], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int32))


def as_found(boxes: Boxes, looked: Array, pts: float) -> Tracked:
    assert looked.all()
    return Tracked(pts, boxes, np.arange(1, len(boxes) + 1, dtype=np.int32))


@given(st.integers(1, 400), st.floats(0.005, 1.0), st.sampled_from(PHASES))
def test_looks_are_evenly_spaced_and_as_many_as_asked_for(
    n: int, share: float, phase: float
) -> None:
    chosen = looks(n, share, phase)
    assert chosen[0]
    assert abs(int(chosen.sum()) - n * share) <= 2
    gaps = np.diff(np.flatnonzero(chosen))[1:]
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
    assert not len(gaps) or gaps.max() <= np.ceil(1 / share)


def test_phases_look_at_other_frames() -> None:
    assert len({tuple(np.flatnonzero(looks(100, 0.1, phase))) for phase in PHASES}) == len(PHASES)


def test_carried_boxes_stay_until_the_next_look() -> None:
    dense = [box(n, 0, n + 10, 10) for n in range(6)]
    chosen = np.array([True, False, False, True, False, False])
    shown = carried(dense, [float(n) for n in range(6)], chosen, as_found)
    assert [each.boxes.xyxy[0, 0] for each in shown] == [0, 0, 0, 3, 3, 3]
    assert [each.pts for each in shown] == [0, 1, 2, 3, 4, 5]


def test_moved_boxes_go_with_what_they_hold() -> None:
    pictures = [with_object(100 + 3 * n, 80 + n) for n in range(11)]
    dense = [box(100 + 3 * n, 80 + n, 140 + 3 * n, 120 + n) for n in range(11)]
    chosen = looks(11, 0.0, 0.0)
    runs = [Subsampling(chosen, as_found), Subsampling(looks(11, 0.5, 0.0), as_found)]
    once, often = moved(pictures, dense, [n / 10 for n in range(11)], runs)
    for shown in (once, often):
        for each, true in zip(shown, dense, strict=True):
            assert np.abs(each.boxes.xyxy - true.xyxy).max() < 1
            assert each.ids.tolist() == [1]


def test_a_box_whose_points_do_not_come_back_stays() -> None:
    noise = [picture(rng.integers(0, 255, SIZE[::-1], np.uint8)) for _ in range(2)]
    given_boxes = [box(50, 50, 90, 90), empty()]
    shown = moved(noise, given_boxes, [0, 1], [Subsampling(looks(2, 0, 0), as_found)])[0]
    assert shown[1].boxes.xyxy.tolist() == [[50, 50, 90, 90]]


def test_a_box_that_leaves_the_picture_is_gone() -> None:
    pictures = [with_object(0, 80), *(picture(np.roll(BACKGROUND, -1, 1)) for _ in range(1))]
    outside = [box(-5, 80, 0.5, 120), empty()]
    shown = moved(pictures, outside, [0, 1], [Subsampling(looks(2, 0, 0), as_found)])[0]
    assert len(shown[1].boxes) == 0


@pytest.mark.parametrize(
    "rule", [PreviousFrame(), RunningAverage()], ids=lambda r: type(r).__name__
)
def test_motion_rules_find_what_appears_and_nothing_else(rule: MotionRule) -> None:
    for _ in range(3):
        assert len(rule.changed(picture(BACKGROUND))) == 0
    (found,) = rule.changed(with_object(200, 100))
    assert (found[:2] <= (204, 104)).all()
    assert (found[2:] >= (236, 136)).all()
    assert (found[2:] - found[:2]).max() < 40 + 2 * 64 + 8


rectangles = st.lists(
    st.tuples(*(st.integers(0, 300) for _ in range(2)), *(st.integers(1, 90) for _ in range(2))),
    max_size=8,
)


@given(rectangles)
def test_merged_rectangles_hold_all_and_do_not_overlap(given_rectangles: list[Any]) -> None:
    xyxy = np.array([(x, y, x + w, y + h) for x, y, w, h in given_rectangles], np.float32)
    out = merged(xyxy.reshape(-1, 4))
    for one in xyxy:
        assert any((m[:2] <= one[:2]).all() and (m[2:] >= one[2:]).all() for m in out)
    for i, a in enumerate(out):
        for b in out[i + 1 :]:
            assert (a[:2] > b[2:]).any() or (b[:2] > a[2:]).any()


@given(rectangles, rectangles)
def test_regions_lie_in_the_picture_and_hold_what_they_are_for(
    changed: list[Any], known: list[Any]
) -> None:
    size = (768, 432)
    arrays = [
        np.array([(x, y, x + w, y + h) for x, y, w, h in each], np.float32).reshape(-1, 4)
        for each in (changed, known)
    ]
    places = regions(arrays[0], arrays[1], size)
    assert bool(places) == bool(changed)
    for left, top, right, bottom in places:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert left % 2 == top % 2 == 0
        assert min(right - left, bottom - top) >= 320
    for one in arrays[0]:
        assert any(
            (p[:2] <= one[:2]).all() and (p[2:] >= one[2:] - 1).all() for p in map(np.array, places)
        )


def test_a_region_replaces_what_it_covers_and_keeps_the_rest() -> None:
    looking = RegionDetector(detector.load("light", "f32", 1))
    luma = np.full((640, 640), 90, np.uint8)
    known = Boxes(
        np.array([[40, 40, 90, 90], [500, 500, 560, 560]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.zeros(2, np.int32),
    )
    before = Known(known, np.ones(2, bool), np.array([3, 7]))
    after = looking.look(picture(luma), before, [(0, 0, 320, 320)])
    assert after.boxes.xyxy.tolist() == [[500, 500, 560, 560]]  # nothing is on an empty wall
    assert after.is_new.tolist() == [False]
    assert after.still.tolist() == [7]
    assert after.pixels == 320 * 320


def test_a_folder_without_clips_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoClip, match="has none of"):
        find_clips(tmp_path, (), 200, tmp_path)
    with pytest.raises(NoClip, match="no clip to judge named nothing"):
        find_clips(tmp_path, ("nothing",), 200, tmp_path)
