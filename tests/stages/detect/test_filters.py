"""Object filters in detect, with the gate on: neither looks nor carried boxes show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.stages.detect import Detect
from framegate.stages.detect.memory import DetectState
from framegate.stages.detect.options import CacheOptions, DetectOptions, GateOptions, Mode
from framegate.stages.detections import Detections
from tests.stages.detect.test_detect import FORM, LEAST, item, pixels, stored


class Filtered:
    """A stage whose filters are set from outside, with the state through the store each time."""

    def __init__(self, folder: Path, mode: Mode = "crops") -> None:
        self.filters: Mapping[str, ObjectFilter] = {}
        self.state = {"a": DetectState()}
        self.folder = folder
        self.mode = mode
        self.restart()

    def restart(self) -> None:
        """Another worker continues."""
        context = context_alone(
            pixels, lambda: 0.0, self.folder, "decode", filters=lambda _: self.filters
        )
        options = DetectOptions(
            min_score=LEAST, gate=GateOptions(mode=self.mode), cache=CacheOptions(exact=False)
        )
        self.stage = Detect(options, context)

    def process(self, *items: Item) -> list[Detections]:
        outputs, after = self.stage.process(items, self.state)
        self.state = stored(dict(after))
        return outputs


def foot(found: Object) -> float:
    """Where an object stands, as a share of the picture's width."""
    return (found.box[0] + found.box[2]) / 2 / FORM.width


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Object, Object]:
    """The number of a picture in which the network takes blobs for at least two things, and the
    one that is furthest to the left and to the right.
    """
    detect = Filtered(tmp_path_factory.mktemp("busy"))
    for picture in range(1, 40):
        detect.state = {"a": DetectState()}
        objects = detect.process(*[item(1, n, picture) for n in range(4)])[-1].objects
        tracked = sorted((found for found in objects if found.track), key=foot)
        if len(tracked) > 1 and foot(tracked[-1]) - foot(tracked[0]) > 0.05:
            return picture, tracked[0], tracked[-1]
    raise AssertionError("no picture has two things")


@pytest.mark.parametrize("mode", ["crops", "off"])
def test_a_filter_applies_from_the_frame_that_names_it_until_the_one_that_does_not(
    tmp_path: Path, busy: tuple[int, Object, Object], mode: Mode
) -> None:
    picture, first, last = busy
    middle = (foot(first) + foot(last)) / 2
    left = ((0.0, 0.0), (middle, 0.0), (middle, 1.0), (0.0, 1.0))

    def is_left(output: Detections) -> bool:
        return any(foot(found) < middle for found in output.objects)

    detect = Filtered(tmp_path, mode)
    before = detect.process(*[item(1, n, picture) for n in range(4)])
    assert is_left(before[-1])

    detect.filters = {"left": ObjectFilter(area=left)}
    during = detect.process(*[item(1, n, picture) for n in range(4, 6)])
    detect.restart()
    during += detect.process(*[item(1, n, picture + n // 10) for n in range(6, 14)])
    assert not any(map(is_left, during))
    assert any(output.outcome == "carried" for output in during) == (mode == "crops")
    assert [output.filters for output in during] == [("left",)] + [None] * 9
    assert during[0].looked == "whole"
    assert last.track in {found.track for found in during[1].objects}

    detect.filters = {}
    [after] = detect.process(item(1, 14, picture))
    assert after.filters == ()
    assert is_left(after)


def test_one_object_is_hidden_at_its_place_and_the_others_stay(
    tmp_path: Path, busy: tuple[int, Object, Object]
) -> None:
    picture, hidden, other = busy
    detect = Filtered(tmp_path)
    detect.process(*[item(1, n, picture) for n in range(4)])
    left, top, right, bottom = hidden.box
    place = (
        max(left, 0) / FORM.width,
        max(top, 0) / FORM.height,
        min(right, FORM.width) / FORM.width,
        min(bottom, FORM.height) / FORM.height,
    )
    detect.filters = {"false": ObjectFilter(labels=(hidden.label,), box=place)}
    for output in detect.process(*[item(1, n, picture) for n in range(4, 9)]):
        tracks = {found.track for found in output.objects}
        assert hidden.track not in tracks
        assert other.track in tracks
