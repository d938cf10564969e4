"""Shadow: another model beside what is served, within budgets, and where the two differ."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.alone import context_alone
from framegate.stages.detect import Detect, DetectOptions, DetectState
from framegate.stages.detections import Detections
from framegate.stages.shadow import (
    CpuBudget,
    Shadow,
    ShadowOptions,
    ShadowState,
    compare,
    is_drawn,
    part_of,
)
from tests.stages.detect.test_detect import LEAST, blobs, item, pixels
from tests.support.own_models import own_model

EVERYTHING = frozenset(coco.LABELS)


def served(label: str, box: tuple[float, float, float, float]) -> Object:
    return Object(1, label, coco.LABELS.index(label), 0.5, box, "detected")


def found(*rows: tuple[str, tuple[float, float, float, float], float]) -> Boxes:
    rows = tuple(sorted(rows, key=lambda row: -row[2]))
    return Boxes(
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
        np.array([coco.LABELS.index(row[0]) for row in rows], np.int32),
    )


def test_boxes_of_one_label_agree_where_they_overlap() -> None:
    """By hand: a shifted person agrees (IoU 0.82), another label does not, nor what is far."""
    ours = [served("person", (0, 0, 10, 10)), served("car", (50, 50, 60, 60))]
    theirs = found(
        ("person", (1, 0, 11, 10), 0.9), ("truck", (50, 50, 60, 60), 0.8),
        ("person", (80, 80, 90, 90), 0.7),
    )  # fmt: skip
    compared = compare(ours, theirs, coco.LABELS, EVERYTHING)
    assert [named.label for named in compared.agreed] == ["person"]
    assert [named.label for named in compared.served] == ["car"]
    assert [(named.label, named.score) for named in compared.said] == [
        ("truck", 0.8),
        ("person", 0.7),
    ]


def test_each_box_agrees_with_one() -> None:
    ours = [served("person", (0, 0, 10, 10))]
    theirs = found(("person", (0, 0, 10, 10), 0.9), ("person", (0, 0, 10, 9), 0.8))
    compared = compare(ours, theirs, coco.LABELS, EVERYTHING)
    assert (len(compared.agreed), len(compared.served), len(compared.said)) == (1, 0, 1)


def test_what_only_one_can_say_is_no_disagreement() -> None:
    ours = [served("person", (0, 0, 10, 10))]
    theirs = found(("car", (50, 50, 60, 60), 0.9))
    compared = compare(ours, theirs, coco.LABELS, frozenset({"car"}))
    assert not compared.served
    assert [named.label for named in compared.said] == ["car"]
    assert part_of(compared, (100, 56)) == (34, 34, 78, 56)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_draws_are_of_that_share_and_the_same_for_all(share: float) -> None:
    drawn = [is_drawn("cam", Position(1, seq), share) for seq in range(20_000)]
    spread = 5 * (share * (1 - share) / 20_000) ** 0.5
    assert abs(sum(drawn) / 20_000 - share) < spread
    assert drawn == [is_drawn("cam", Position(1, seq), share) for seq in range(20_000)]


def test_a_budget_that_is_used_up_allows_nothing() -> None:
    none = CpuBudget(1e-9)
    sum(itertools.islice(itertools.count(), 100_000))  # takes some CPU time
    assert not none.allows()
    plenty = CpuBudget(64.0)
    assert plenty.allows()
    plenty.took(1e6)
    assert not plenty.allows(), "another look as long as that is too much"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def chosen(run: Path, name: str, min_score: float) -> str:
    """A model in the run's folder, as the run is told of it."""
    manifest = own_model(run / "models", name, min_score=min_score).manifest
    return f"{name}@{manifest.sha256}"


def looked(run: Path, model: str, frames: int = 6) -> tuple[ShadowState, list[object], list[Item]]:
    """What shadow says of frames of one picture that detect has served."""
    context = context_alone(pixels, lambda: 0.0, run, "window")
    detect = Detect(DetectOptions(min_score=LEAST), context)
    options = ShadowOptions(model, share=1.0, cpu=64.0, detect={})
    shadow = Shadow(options, context_alone(pixels, lambda: 0.0, run, "detect"))
    state, seen, said, items = DetectState(), ShadowState(), [], []
    for seq in range(frames):
        frame = item(1, seq, 1)
        [answer], after = detect.process([frame], {"a": state})
        state = after["a"]
        record = msgspec.structs.replace(
            frame.record, said={"detect": msgspec.Raw(records.encode(answer))}
        )
        items.append(frame._replace(record=record))
        if shadow._under_way is not None:
            shadow._under_way.exception()  # waits
        [output], states = shadow.process(items[-1:], {"a": seen})
        seen = states["a"]
        said += [] if output is None else [output]
    shadow.close()
    return seen, said, items


def test_a_model_that_sees_nothing_disagrees_with_everything(run: Path) -> None:
    seen, said, items = looked(run, chosen(run, "blind", 0.9))
    assert (seen.frames, seen.differing, seen.agreed, seen.said) == (5, 5, 0, 0)
    assert seen.served > 0
    assert seen.f1 == 0
    assert seen.other[0].startswith("blind-416-")
    first = said[0]
    assert (first.source, first.epoch, first.seq) == ("a", 1, 0)
    left, top, right, bottom = first.rect
    shown = cv2.imdecode(np.frombuffer(first.picture, np.uint8), cv2.IMREAD_COLOR)
    whole = cv2.cvtColor(
        np.frombuffer(blobs(1), np.uint8).reshape(270, 320), cv2.COLOR_YUV2BGR_I420
    )
    assert shown.shape[:2] == (bottom - top, right - left)
    assert np.abs(shown.astype(int) - whole[top:bottom, left:right]).mean() < 12
    for named in first.served:
        assert left <= named.box[0] <= named.box[2] <= right
    assert records.decode(records.encode(first), type(first)) == first
    served_labels = {one.label for one in items[0].output_of("detect", Detections).objects}
    assert {box.label for box in first.served} == served_labels


def test_the_same_network_agrees(run: Path) -> None:
    seen, _, _ = looked(run, chosen(run, "same", LEAST))
    assert seen.frames == 5
    assert seen.agreed > seen.served + seen.said


def test_counts_of_another_model_begin_anew() -> None:
    one = compare([], found(("car", (0, 0, 9, 9), 0.5)), coco.LABELS, EVERYTHING)
    state = ShadowState().after("a", ("a@1",), one).after("a", ("a@1",), one)
    assert (state.frames, state.said) == (2, 2)
    assert state.after("b", ("b@2",), one).frames == 1
