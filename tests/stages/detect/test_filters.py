"""Object filters in detect, with the gate on: neither looks nor carried boxes show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.stages.detect import Detect
from framegate.stages.detect.memory import DetectState
from framegate.stages.detect.options import CacheOptions, GateOptions
from framegate.stages.detect.stage import DetectOptions
from framegate.stages.detections import Detections
from tests.stages.detect.test_detect import FORM, LEAST, item, pixels, stored

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))


class Filtered:
    """A stage whose filters are set from outside, with the state through the store each time."""

    def __init__(self, folder: Path) -> None:
        self.filters: Mapping[str, ObjectFilter] = {}
        self.state = {"a": DetectState()}
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        """Another worker continues."""
        context = context_alone(
            pixels, lambda: 0.0, self.folder, "decode", filters=lambda _: self.filters
        )
        options = DetectOptions(
            min_score=LEAST, gate=GateOptions(mode="crops"), cache=CacheOptions(exact=False)
        )
        self.stage = Detect(options, context)

    def process(self, *items: Item) -> list[Detections]:
        outputs, after = self.stage.process(items, self.state)
        self.state = stored(dict(after))
        return outputs


def is_left(box: tuple[float, float, float, float]) -> bool:
    return (box[0] + box[2]) / 2 < FORM.width / 2


def test_a_filter_applies_from_the_frame_that_names_it_until_the_one_that_does_not(
    tmp_path: Path,
) -> None:
    detect = Filtered(tmp_path)
    before = detect.process(*[item(1, n, 1) for n in range(4)])
    assert any(is_left(found.box) for found in before[-1].objects)
    right = {found.track for found in before[-1].objects if not is_left(found.box)}

    detect.filters = {"left": ObjectFilter(area=LEFT)}
    during = detect.process(*[item(1, n, 1) for n in range(4, 6)])
    detect.restart()
    during += detect.process(*[item(1, n, 1 + n // 8) for n in range(6, 12)])
    assert not any(is_left(found.box) for output in during for found in output.objects)
    assert {output.outcome for output in during} == {"detected", "carried"}
    assert [output.filters for output in during] == [("left",)] + [None] * 7
    assert during[0].looked == "whole"
    assert right & {found.track for found in during[1].objects if found.track}

    detect.filters = {}
    [after] = detect.process(item(1, 12, 1))
    assert after.filters == ()
    assert any(is_left(found.box) for found in after.objects)


def test_one_object_is_hidden_at_its_place_and_the_others_stay(tmp_path: Path) -> None:
    detect = Filtered(tmp_path)
    shown = detect.process(*[item(1, n, 1) for n in range(4)])[-1].objects
    hidden = shown[0]
    left, top, right, bottom = hidden.box
    place = (
        max(left, 0) / FORM.width,
        max(top, 0) / FORM.height,
        min(right, FORM.width) / FORM.width,
        min(bottom, FORM.height) / FORM.height,
    )
    detect.filters = {"false": ObjectFilter(labels=(hidden.label,), box=place)}
    outputs = detect.process(*[item(1, n, 1) for n in range(4, 9)])
    for output in outputs:
        numbers = {found.track for found in output.objects}
        assert hidden.track not in numbers
        assert {found.track for found in shown[1:]} <= numbers | {None}
