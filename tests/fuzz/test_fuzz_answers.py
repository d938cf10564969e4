"""What comes over the wire to and from heavy workers and KServe servers: read, or refused."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.models.errors import PictureDamaged
from framegate.models.picture_coding import encode, encode_exact
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.queries import PlaceFailed, Predictions, Unanswered, checked
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.kserve_tensors import Facts, answers_of, outputs_of, pictures_of
from framegate.pipeline.heavy.queue import QueryMessage, ReplyMessage
from framegate.stages.escalate.heavy_pass import decode_question
from framegate.stages.model_adapters import as_boxes
from tests.fuzz.budget import fuzz
from tests.fuzz.mutated import data_like, json_values
from tests.fuzz.test_fuzz_models import PICTURE

FORM = Form(64, 48)
SEEN = Predictions(((1.0, 2.0, 9.0, 14.0),), (0.8,), (0,), ("heavy@1",))
POLICY = "f" * 64
JPEG, EXACT = encode(PICTURE), encode_exact(PICTURE)
ASKED = msgspec.msgpack.encode(QueryMessage(1, "me", 1, 0, "a", FORM, JPEG, (0, 0, 8, 8), 5))
REPLIED = msgspec.msgpack.encode(ReplyMessage(1, 0, POLICY, SEEN, took_s=0.1))
DEEP = b"\x82\xa1v\x01\xa1x" + b"\x91" * 100_000 + b"\xc0"


@fuzz()
@given(data=data_like(ASKED, REPLIED))
@example(DEEP)
@example(b"")
@example(ASKED.replace(b"me", b"\xff\xff"))
def test_a_message_of_the_queue_is_read_or_refused(data: bytes) -> None:
    for kind in (QueryMessage, ReplyMessage):
        try:
            records.decode_versioned(data, kind)
        except (msgspec.MsgspecError, RecordTooNew):
            continue


def arrays(kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An array of numbers, text or anything, of few dimensions."""
    values = st.lists(kinds, max_size=8)
    types = st.sampled_from([np.int32, np.int64, np.uint8, np.float32, np.float64])
    with np.errstate(all="ignore"):
        numbers = st.builds(
            lambda v, t: np.array(v, np.float64).astype(t),
            st.lists(st.integers(-3, 99) | st.floats(-1e9, 1e9), max_size=8),
            types,
        )
    things = st.builds(lambda v: _objects(v), values)
    return st.none() | numbers | things | numbers.map(lambda a: a.reshape(-1, 1))


def _objects(values: list[Any]) -> Any:
    made = np.empty(len(values), np.object_)
    for at, value in enumerate(values):
        made[at] = value
    return made


GOOD = outputs_of([SEEN, None, SEEN], POLICY, 0.25)
any_array = arrays(json_values | st.binary(max_size=9) | st.just(10**15))
bent = st.dictionaries(st.sampled_from([*GOOD]), any_array, max_size=3)


@fuzz(100)
@given(changes=bent, gone=st.sets(st.sampled_from([*GOOD]), max_size=1))
@example({"models": _objects([10**15] * 3)}, set())
@example({"policy": _objects([10**15])}, set())
@example({"class_ids": np.array([0.0, 1.0], np.float32)}, set())
@example({"took_s": np.array([np.nan], np.float32)}, set())
@example({"took_s": None}, set())
@example({"boxes": np.full((2, 4), np.nan, np.float32)}, set())
@example({"counts": np.array([2**31 - 1, -(2**31), 3], np.int32)}, set())
def test_a_servers_answer_is_one_or_the_place_failed(
    changes: dict[str, Any], gone: set[str]
) -> None:
    outputs = {k: v for k, v in {**GOOD, **changes}.items() if k not in gone}
    try:
        answers = answers_of(outputs, 3, POLICY)
        told = [checked(one, FORM) for one in answers if isinstance(one, Predictions)]
    except PlaceFailed:
        return
    assert len(answers) == 3
    assert all(isinstance(one, Predictions | Unanswered) for one in answers)
    assert math.isfinite(float(outputs["took_s"].sum()))
    for one in told:
        assert all(isinstance(class_id, int) for class_id in one.class_ids)
        as_boxes(one)


boxes = st.tuples(*[st.floats() | st.floats(-2, 70)] * 4)
scores = st.floats() | st.floats(0, 1)


@fuzz()
@given(
    rows=st.lists(st.tuples(boxes, scores, st.integers(0, 79)), max_size=3),
    extra=st.lists(scores, max_size=1),
    models=st.lists(st.text(max_size=300), max_size=20),
)
@example([((1.0, 2.0, 9.0, 14.0), 0.5, 1)] * 2000, [], ["heavy@1"])
def test_an_answer_from_far_can_be_drawn_counted_and_published(
    rows: list[Any], extra: list[float], models: list[str]
) -> None:
    seen = Predictions(
        tuple(row[0] for row in rows),
        (*(row[1] for row in rows), *extra),
        tuple(row[2] for row in rows),
        tuple(models),
    )
    try:
        found = as_boxes(checked(seen, FORM))
    except PlaceFailed:
        return
    assert len(found) == len(rows) <= 1000
    assert records.decode(records.encode(seen), Predictions) == seen


ROW = [*Facts(64, 48, 0, 0, 0, 64, 48, 601, 0, 0, 0)]
ASKS = {"picture": _objects([JPEG]), "facts": np.array([ROW], np.int32)}


@fuzz()
@given(
    changes=st.dictionaries(st.sampled_from([*ASKS]), any_array.filter(lambda a: a is not None)),
    facts=st.lists(st.integers(-3, 1000), min_size=11, max_size=11),
)
@example({"picture": _objects([10**15])}, ROW)
@example({}, [*ROW[:7], 1, 0, 0, 0])
@example({}, [*ROW[:10], 1])
def test_a_server_reads_a_request_or_says_what_is_wrong(
    changes: dict[str, Any], facts: list[int]
) -> None:
    try:
        found = pictures_of({**ASKS, "facts": np.array([facts], np.int32), **changes})
    except ValueError:
        return
    for _, row in found:
        assert row.form.matrix in ("bt601", "bt709")


HUGE = JPEG.replace(JPEG[JPEG.find(b"\xff\xc0") + 5 :][:4], b"\xff\xf0\xff\xf0", 1)


@fuzz(120)
@given(
    data=data_like(JPEG, EXACT),
    size=st.tuples(st.integers(-4, 200), st.integers(-4, 200)) | st.just((10**9, 10**12)),
    part=st.none() | st.tuples(*[st.integers(-9, 99)] * 4),
    exact=st.booleans(),
)
@example(HUGE, (64, 48), None, False)
@example(EXACT, (10**9, 10**12), None, True)
@example(EXACT, (65_000, 65_000), None, True)
def test_a_picture_that_somebody_sends_is_decoded_or_damaged(
    data: bytes, size: tuple[int, int], part: tuple[int, int, int, int] | None, exact: bool
) -> None:
    try:
        picture = decode_question(data, Form(*size), part, exact)
    except PictureDamaged:
        return
    assert picture.width * picture.height <= 1 << 26
