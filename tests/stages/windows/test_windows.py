"""A visit for each track, once: its path, stops and scores, whatever is killed or lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import msgspec
import numpy as np
import pytest

from framegate import testing
from framegate.models.colours import NAMES as COLOURS
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Object, Origin, failed_result
from framegate.pipeline.contracts.visits import MAX_BYTES, MAX_POINTS, Colour, PathPoint, Visit
from framegate.stages.detections import Detections, SeenObject
from framegate.stages.windows.object_window import ObjectWindow, looked
from framegate.stages.windows.stage import (
    END_S,
    MAX_WINDOWS,
    Windows,
    WindowsOptions,
    WindowsState,
)
from framegate.testing import Harness

FPS = 10
WIDTH, HEIGHT = 64, 36
GONE = round(END_S * FPS) + 2  # frames after which a track has ended
Frame = Mapping[int, tuple[float, float]]  # the foot of each track


def detections(frame: Frame, origin: Origin = "detected", score: float = 0.8) -> Detections:
    """Return objects of 4 x 8 pixels that stand on their feet."""
    objects = [
        Object(track, "person", 0, score, (x - 2, y - 8, x + 2, y), origin)
        for track, (x, y) in frame.items()
    ]
    return Detections("detected", "whole", "changed", tuple(objects), ("m@1",))


def test_the_mean_feature_of_a_track_of_months_does_not_overflow() -> None:
    looks = (1 << 31) // 127
    sums = np.full(4, 127 * looks, "<i4").tobytes()
    window = ObjectWindow(1, "person", features=sums, featured=looks, model="m@1")
    look = SeenObject(1, (1,) * len(COLOURS), bytes([127] * 4))
    for _ in range(3):
        window = looked(window, look, "m@1")
    assert (np.frombuffer(window.features, "<i4") > 0).all()
    assert window.colours == (3,) * len(COLOURS)


def inputs(number: int) -> Iterator[testing.StageInput]:
    return testing.frames(np.zeros((number, HEIGHT, WIDTH), np.uint8), fps=FPS)


def visits_of(
    frames: Sequence[Detections], restart_at: int | None = None, lose: bool = False
) -> list[Visit]:
    """Return the visits of a source, in order of their frames, with those of its end.

    restart_at  frame before which the worker is replaced
    lose        whether the memory of the machine is lost then
    """
    given = list(inputs(len(frames)))
    first = restart_at or len(frames)
    harness = Harness(Windows, before="detect")
    outputs = harness.feed(given[:first], frames[:first])
    if restart_at is not None:
        after = Harness(Windows, before="detect")
        if not lose:
            after.stage = Windows(WindowsOptions(), harness.context)
        after._states = harness._states
        outputs += after.feed(given[first:], frames[first:])
        harness = after
    visits = [visit for output in outputs if output is not None for visit in output.visits]
    last = harness.end()
    if last is not None:
        visits += last.visits
    assert all(len(records.encode(visit)) <= MAX_BYTES for visit in visits)
    return visits


def walk(seconds: float, x: float = 10, speed: float = 4) -> list[Frame]:
    return [{1: (x + speed * n / FPS, 20.0)} for n in range(round(seconds * FPS))]


def test_a_walk_is_one_visit_with_its_path_and_speed() -> None:
    frames = [detections(frame) for frame in walk(4)] + [detections({})] * GONE
    (visit,) = visits_of(frames)
    assert visit.id == "clip/1-0/1"
    assert (visit.began.seq, visit.last.seq, visit.seconds) == (0, 39, pytest.approx(3.9))
    assert visit.path[0] == PathPoint(0.0, round(10 / 64, 4), round(20 / 36, 4))
    assert visit.path[-1] == PathPoint(3.9, pytest.approx((10 + 4 * 3.9) / 64, abs=1e-3), 0.5556)
    assert visit.size == (pytest.approx(4 / 64, abs=1e-3), pytest.approx(8 / 36, abs=1e-3))
    assert visit.speed == pytest.approx(4 / 64, abs=2e-3)
    assert (visit.stops, visit.dwell_s) == (0, 0.0)
    assert (visit.looks, visit.scores) == (40, (0.8, 0.8))


def test_a_stop_counts_and_a_carried_box_is_no_look() -> None:
    """Walk for 2 s, stand for 3 s without looks, walk on for 2 s."""
    stand = walk(2)[-1]
    frames = [detections(frame) for frame in walk(2)]
    frames += [detections(stand, "carried")] * 30
    frames += [detections(frame) for frame in walk(2, x=stand[1][0])]
    (visit,) = visits_of(frames)
    assert visit.stops == 1
    assert visit.dwell_s == pytest.approx(3.5, abs=0.6)  # within a quarter of its height
    assert visit.looks == 40


def test_a_path_is_bounded_and_covers_the_whole_visit() -> None:
    (visit,) = visits_of([detections(frame) for frame in walk(60, speed=0.8)])
    assert 6 <= len(visit.path) <= MAX_POINTS
    assert visit.path[-1].seconds == pytest.approx(59.9)
    gaps = np.diff([point.seconds for point in visit.path])[:-1]
    assert gaps.max() <= 2 * gaps.min()


def test_a_track_that_is_back_in_time_is_the_same_visit() -> None:
    pause = [detections({})] * (GONE - 5)
    frames = [*map(detections, walk(1)), *pause, *map(detections, walk(1))]
    (visit,) = visits_of(frames)
    assert (visit.began.seq, visit.last.seq, visit.looks) == (0, len(frames) - 1, 20)


def test_visits_are_the_same_if_the_worker_is_replaced() -> None:
    frames = [*map(detections, walk(3)), *[detections({2: (30.0, 30.0)})] * GONE]
    expected = visits_of(frames)
    assert [visit.track for visit in expected] == [1, 2]
    for at in (1, 15, 30, 45):
        assert visits_of(frames, restart_at=at) == expected


def test_a_visit_is_told_once_even_if_the_memory_of_the_machine_is_lost() -> None:
    frames = [*map(detections, walk(3)), *[detections({})] * GONE]
    (expected,) = visits_of(frames)
    (visit,) = visits_of(frames, restart_at=35, lose=True)
    assert (visit.id, visit.began) == (expected.id, expected.began)
    assert visit.path == ()


def test_windows_of_another_layout_begin_again(caplog: pytest.LogCaptureFixture) -> None:
    """An earlier version stored five fields, in an order that this one cannot read."""
    frames = [*map(detections, walk(3)), *[detections({})] * GONE]
    given = list(inputs(len(frames)))
    first = Harness(Windows, before="detect")
    first.feed(given[:20], frames[:20])
    state = first.state("clip")
    assert state.at is not None
    position = Position(state.at.epoch, state.at.seq)
    plane = first.context.plane("clip", 1 << 16)
    unreadable = records.encode(((1, "person", state.at, [0.3, None]),))
    older = msgspec.structs.replace(state, windows=plane.write(position, unreadable, None))
    stored = records.decode(records.encode(msgspec.structs.astuple(older)[:4]), WindowsState)
    after = Harness(Windows, before="detect")
    after.stage = Windows(WindowsOptions(), first.context)
    after._states = {"clip": stored}
    outputs = after.feed(given[20:], frames[20:])
    (visit,) = [visit for output in outputs if output is not None for visit in output.visits]
    assert (visit.track, visit.began.seq) == (1, 0)
    assert "begin again" in caplog.text


def test_windows_are_bounded() -> None:
    """A new track for each frame: those that are gone for longest end first."""
    frames = [detections({n + 1: (30.0, 30.0)}) for n in range(MAX_WINDOWS + 10)]
    fast = list(testing.frames(np.zeros((len(frames), HEIGHT, WIDTH), np.uint8), fps=1000))
    harness = Harness(Windows, before="detect")
    outputs = harness.feed(fast, frames)
    told = [visit.track for output in outputs if output for visit in output.visits]
    assert told == list(range(1, 11))


def test_a_visit_has_the_main_colours_and_the_mean_feature_of_its_looks() -> None:
    frames = []
    for number, frame in enumerate(walk(1)):
        red = COLOURS.index("red")
        counts = [0] * len(COLOURS)
        counts[red], counts[0] = 100 - number, number
        feature = np.array([number, -number, 40], np.int8).tobytes()
        seen = (SeenObject(1, tuple(counts), feature),)
        frames.append(msgspec.structs.replace(detections(frame), seen=seen, feature_model="m@1"))
    (visit,) = visits_of(frames)
    assert visit.colours == {"red": 0.95}  # 4.5 of 100 pixels are too few to be named
    assert list(np.frombuffer(visit.feature, np.int8)) == [4, -4, 40]
    assert visit.feature_model == "m@1"


def test_a_feature_has_the_name_of_the_model_that_made_it() -> None:
    """Neither an answer of the heavy model nor a look without a feature begins another mean."""
    looks = [(["light"], 10), (["light"], 20), (["light", "heavy"], 30), (["other"], None)]
    frames = []
    for (models, value), frame in zip(looks, walk(1), strict=False):
        feature, feature_model = b"", ""
        if value is not None:
            feature, feature_model = np.array([value], np.int8).tobytes(), "light"
        seen = (SeenObject(1, (1,) * len(COLOURS), feature),)
        frames.append(
            msgspec.structs.replace(
                detections(frame), seen=seen, feature_model=feature_model, models=tuple(models)
            )
        )
    (visit,) = visits_of(frames)
    assert list(np.frombuffer(visit.feature, np.int8)) == [20]
    assert visit.feature_model == "light"


def test_an_object_did_not_stand_still_until_its_window_was_lost() -> None:
    frames = [detections(frame) for frame in walk(12)]
    (visit,) = visits_of(frames, restart_at=60, lose=True)
    assert (visit.stops, visit.dwell_s) == (0, 0.0)
    assert visit.path[0].seconds == pytest.approx(6.0)


def test_a_frame_that_fails_later_has_its_visits() -> None:
    frames = [*map(detections, walk(1)), *[detections({})] * GONE]
    given = list(inputs(len(frames)))
    outputs = Harness(Windows, before="detect").feed(given, frames)
    seq, output = next((n, each) for n, each in enumerate(outputs) if each is not None)
    item = given[seq].item
    record = records.with_said(item.record, "windows", records.encode(output), 0.0)
    record = records.with_failure(record, "stage_error")
    result = failed_result("clip", item.position, record, 0.0)
    assert [visit.id for visit in result.visits] == ["clip/1-0/1"]
    bare = records.with_failure(item.record, "stage_error")
    assert failed_result("clip", item.position, bare, 0.0).visits == ()


def test_the_names_of_colours_agree() -> None:
    assert get_args(Colour) == COLOURS
