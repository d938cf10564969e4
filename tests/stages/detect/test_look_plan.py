"""Where detect looks, what it believes afterwards, and that its memory carries all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from framegate.models.gate import crops
from framegate.models.picture import Picture
from framegate.models.tracking.track_state import no_tracks
from framegate.stages.detect.look_plan import plan_looks, whole_plan
from framegate.stages.detect.memory import NOTHING, CurrentFrame, SourceMemory, memory_bytes
from framegate.stages.detect.move_boxes import move_along
from framegate.stages.detect.options import masks_fault
from framegate.stages.detect.output import detections_of
from tests.support.told_source import FPS, SIZE, THING, Source, areas, picture


def test_first_whole_then_nothing() -> None:
    source = Source()
    assert source.see(picture())[0].reason == "first"
    looked = [source.see(picture())[0] for _ in range(15)]
    assert {(each.looked, each.reason) for each in looked} == {("no", "unchanged")}


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("place", [(0, 0), (300, 170), (616, 336)])
def test_what_is_new_is_looked_at_within_two_frames(place: tuple[int, int], key: bool) -> None:
    source = Source()
    source.settle()
    left, top = place
    patch = (left, top, left + 24, top + 24)
    thing = (float(left), float(top), left + 24.0, top + 24.0)
    looked = [source.see(picture(patch), thing, key=key and n == 0)[0] for n in range(2)]
    seen = next(each for each in looked if each.looks)
    assert seen.reason == "changed"
    assert any((area[:2] <= patch[:2]).all() and (area[2:] >= patch[2:]).all()
               for area in areas(seen))  # fmt: skip


def test_a_part_costs_less_than_the_whole() -> None:
    source = Source()
    source.settle()
    whole = crops.whole(*SIZE, 416).pixels
    plan, _ = source.see(picture((300, 170, 344, 214)), (300.0, 170.0, 344.0, 214.0))
    assert plan.looked == "part"
    assert 0 < sum(look.pixels for look in plan.looks) < 0.6 * whole


def test_a_plan_states_the_areas_of_its_parts() -> None:
    source = Source()
    assert source.see(picture())[0].areas == ()  # the whole frame
    source.settle()
    plan, estimate = source.see(picture((300, 170, 344, 214)), (300.0, 170.0, 344.0, 214.0))
    assert plan.looked == "part"
    [(left, top, right, bottom)] = plan.areas
    assert 0 <= left <= 300
    assert 0 <= top <= 170
    assert 344 <= right <= SIZE[0]
    assert 214 <= bottom <= SIZE[1]
    assert (right - left) * (bottom - top) < 0.6 * SIZE[0] * SIZE[1]
    assert detections_of(plan, estimate, ()).looks == plan.areas
    assert whole_plan(source.hold(9.0), source.settings.plan).areas == ()


def test_masked_places_do_not_trigger() -> None:
    from framegate.models.gate.cells import grid_of, ignored_tiles

    source = Source()
    source.settle()
    mask = ignored_tiles([[(280, 160), (360, 160), (360, 240), (280, 240)]], grid_of(*SIZE))
    shown = picture((300, 176, 324, 200))
    plan = plan_looks(source.hold(1.0), shown, source.settings.plan, mask)
    assert plan.reason == "unchanged"


def test_an_object_that_left_is_gone_in_the_frame_that_a_part_missed_it() -> None:
    """A part that misses what is known may be wrong: the whole decides, in the same frame."""
    source = Source()
    source.settle(THING)
    plan, told = source.see(picture((300, 100, 330, 130)))
    assert (plan.looked, plan.reason) == ("whole", "doubted")
    assert plan.parts
    assert len(plan.doubted)
    assert not len(told.shown)


def test_a_slow_object_is_moved_along_while_its_change_waits() -> None:
    source = Source()
    origins = set()
    for n in range(30):
        left = 200.0 + 3 * n
        here = (int(left), 100, int(left) + 100, 200)
        _, told = source.see(picture(here), (left, 100.0, left + 100, 200.0))
        origins |= set(told.origins)
        if n > 5:
            assert abs(told.shown.xyxy[0, 0] - left) < 8
            assert told.ids[0] == 1
    assert "moved" in origins


def test_an_object_that_enters_keeps_its_edge_at_the_border_while_it_waits() -> None:
    source = Source()
    heights = []
    for n in range(20):
        top = 300.0 - 6 * n
        here = (200, int(top), 320, SIZE[1])
        plan, told = source.see(picture(here), (200.0, top, 320.0, float(SIZE[1])))
        if plan.reason == "waiting" and len(told.shown):
            heights.append(told.shown.xyxy[0, 3])
    assert heights
    assert set(heights) == {SIZE[1]}


def test_where_nothing_is_known_nothing_moves_on() -> None:
    plan, _ = Source().see(picture())
    assert plan.change is not None
    known, moved = move_along(NOTHING, no_tracks(), plan.change, SIZE, 0.1)
    assert (len(known.ids), moved) == (0, None)


def test_what_is_new_does_not_wait_for_what_moves() -> None:
    source = Source()
    for n in range(20):
        left = 200.0 + 3 * n
        moving = (int(left), 100, int(left) + 100, 200)
        new = [(560, 300, 600, 340)] if n >= 12 else []
        plan, _ = source.see(picture(moving, *new), (left, 100.0, left + 100, 200.0))
        if n in (12, 13) and plan.looks:
            return
    raise AssertionError("a new object was not looked at within two frames")


def test_an_object_that_needs_a_second_look_does_not_wait_beside_a_moving_one() -> None:
    source = Source()
    source.score = 0.43  # above the threshold, but not sure at the first look
    shown_after: list[int] = []
    for n in range(20):
        left = 200 + 3 * n
        patches = [(left, 100, left + 100, 200)]
        if n >= 12:
            patches.append((left + 100, 120, left + 130, 180))
        things = [(float(x), float(y), float(right), float(low)) for x, y, right, low in patches]
        _, estimate = source.see(picture(*patches), *things)
        if len(estimate.memory.known.ids) == 2:
            shown_after.append(len(estimate.shown))
    assert shown_after[:2] == [1, 2]


def test_what_begins_to_change_beside_what_is_looked_at_is_believed() -> None:
    """Its tiles count as seen after that look, so what was found in them must count, too."""
    source = Source()
    source.settle()
    clear, faint = (288.0, 160.0, 320.0, 192.0), (352.0, 160.0, 384.0, 192.0)
    y = picture((288, 160, 320, 192)).y.copy()
    y[160:192, 352:384] += 15  # not enough to be looked at for at its first sight
    half = np.full((SIZE[1] // 2, SIZE[0] // 2), 128, np.uint8)
    plan, told = source.see(Picture(y, half, half), clear, faint)
    assert plan.looked == "part"
    assert not crops.touch(np.array([faint], np.float32), plan.places).any()
    for _ in range(3):
        _, told = source.see(Picture(y, half, half), clear, faint)
    assert len(told.shown) == 2


def now_s(memory: SourceMemory, pts: float | None) -> float:
    return CurrentFrame(memory, no_tracks(), SIZE, pts).now_s


def test_the_clock_neither_stands_still_nor_goes_back() -> None:
    period = 5 + 1 / 30
    assert now_s(SourceMemory(clock_s=5.0), 1.0) == pytest.approx(period)
    memory = SourceMemory(pts=2.0, clock_s=5.0)
    assert now_s(memory, None) == now_s(memory, 1.0) == now_s(memory, 2.0)
    assert now_s(memory, None) == pytest.approx(period)
    assert now_s(memory, 4.5) == pytest.approx(7.5)


def test_ages_go_on_after_time_stamps_went_back() -> None:
    source = Source()
    source.frame = 3600 * FPS
    source.settle(THING)
    source.frame = 0
    reasons = {source.see(picture(), THING)[0].reason for _ in range(2 * FPS)}
    assert "age" in reasons


def test_memory_fits_its_plane_and_survives_it() -> None:
    source = Source()
    source.settle(THING)
    source.see(picture((10, 10, 60, 60)), THING)
    memory = replace(source.memory, cut=np.ones((2, 4), np.float32))
    data = memory.to_bytes()
    assert memory.gate is not None
    assert len(data) <= memory_bytes(memory.gate.grid)
    assert SourceMemory.from_bytes(data).to_bytes() == data


def test_masks_are_checked() -> None:
    assert masks_fault({"a": [[[0, 0], [9, 0], [9, 9]]]}) is None
    assert "cannot name a source" in str(masks_fault({"the door": [[[0, 0], [9, 0], [9, 9]]]}))
    for wrong in ([[0, 0]], [[[0, 0], [9, 0]]], [[[0, 0], [9, 0], ["x", 9]]], "all"):
        assert "three or more points" in str(masks_fault({"a": wrong}))


@pytest.mark.parametrize(("mode", "some"), [("off", False), ("frames", False), ("crops", True)])
def test_only_where_parts_are_looked_at_their_sizes_are_warmed_up(mode: str, some: bool) -> None:
    chosen = Source(mode=mode).settings.plan
    assert (len(crops.sizes(*SIZE, chosen.long_side, chosen.crops)) > 1) == some
