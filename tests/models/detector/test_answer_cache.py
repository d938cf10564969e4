"""Answers that are looked up: the same bits as from the network, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import Boxes
from framegate.models.detector import answer_cache
from framegate.models.detector.answer_cache import (
    Recall,
    RecentAnswers,
    Worth,
    boxes_of,
    key_of,
    value_of,
)
from framegate.models.detector.detector import Detector, build, load
from framegate.models.detector.member import DetectorMember
from framegate.models.gate import crops
from framegate.models.gate.crops import Crop
from framegate.models.picture import NetworkInput, Picture
from tests.models.detector.test_detector import LOW, same, scene


class Dictionary:
    """A memory that forgets nothing and counts what it is asked."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.asked = 0

    def find(self, key: bytes) -> bytes | None:
        self.asked += 1
        return self.values.get(key)

    def keep(self, key: bytes, value: bytes) -> None:
        self.values[key] = value


@pytest.fixture(scope="module")
def light() -> Detector:
    return load("light", "f32", 1, min_score=LOW)


@pytest.fixture
def remembering() -> Recall:
    return Recall(Dictionary())


def prepared(seed: int = 0, offset: tuple[int, int] = (0, 0)) -> NetworkInput:
    bgr = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8)
    return NetworkInput(bgr, (416, 234), (640, 360), offset)


def test_answers_are_the_networks_to_the_bit(light: Detector, remembering: Recall) -> None:
    pictures = [scene(n, 120 + 60 * (n % 2)) for n in range(4)]
    alone = light.detect(pictures)
    for _ in range(3):
        found = light.detect(pictures, [remembering] * 4)
        assert all(same(a, b) for a, b in zip(found, alone, strict=True))
    assert (remembering.counts.misses, remembering.counts.hits) == (4, 8)


def test_parts_are_remembered_as_well(light: Detector, remembering: Recall) -> None:
    picture = scene(3, 832, 832)
    looks = [Crop((0, 0, 160, 160)), crops.whole(832, 832, 416), Crop((128, 64, 416, 352))]
    alone = light.look(picture, looks)
    assert sum(map(len, alone)) > 10
    for _ in range(2):
        found = light.look(picture, looks, remembering)
        assert all(same(a, b) for a, b in zip(found, alone, strict=True))
    assert (remembering.counts.misses, remembering.counts.hits) == (3, 3)


def test_a_batch_may_be_answered_in_part(light: Detector, remembering: Recall) -> None:
    pictures = [scene(n) for n in range(5)]
    light.detect(pictures[1:4:2], [remembering] * 2)
    found = light.detect(pictures, [remembering, remembering, None, remembering, remembering])
    assert all(same(a, b) for a, b in zip(found, light.detect(pictures), strict=True))
    assert remembering.counts.hits == 2


def test_equal_inputs_of_a_batch_go_through_the_network_once(
    light: Detector, remembering: Recall
) -> None:
    pictures = [scene(1), scene(1), scene(2), scene(1), scene(2)]
    found = light.detect(pictures, [remembering] * 5)
    assert all(same(a, b) for a, b in zip(found, light.detect(pictures), strict=True))
    assert (remembering.counts.misses, remembering.counts.hits) == (2, 3)


def test_the_heavy_pass_is_remembered_by_its_parts(remembering: Recall) -> None:
    heavy = load("heavy", "f32", 1, min_score=LOW)
    alone = heavy.detect([scene(0)])[0]
    for _ in range(2):
        assert same(heavy.detect([scene(0)], [remembering])[0], alone)
    assert (remembering.counts.misses, remembering.counts.hits) == (3, 3)


def test_what_cannot_be_prepared_leaves_nothing_in_progress(
    light: Detector, remembering: Recall
) -> None:
    broken: list[Picture] = [scene(7), None]  # type: ignore[list-item]
    with pytest.raises(AttributeError):
        light.detect(broken, [remembering] * 2)
    assert not remembering._in_progress
    light.detect([scene(7)] * 2, [remembering] * 2)
    assert remembering.counts.hits == 1


def test_everything_that_decides_an_answer_decides_its_key(light: Detector) -> None:
    """Changed weights, precision, threads, thresholds, classes, place: another key."""
    choices = light.choices
    plain = light.members[0]

    def member(
        precision: str = "f32",
        threads: int = 1,
        ids: tuple[int, ...] = light.class_ids,
        **changed: float,
    ) -> DetectorMember:
        policy = replace(choices, **changed)  # type: ignore[arg-type]
        return build(policy, precision, threads, ids).members[0]  # type: ignore[arg-type]

    others = [
        member(precision="int8"),  # its weights are others, too
        member(threads=2),
        member(ids=light.class_ids[:-1]),
        member(min_score=0.5),
        member(nms_iou=0.4),
        member(max_boxes=7),
        DetectorMember(plain.kind, 320, plain.network, choices, LOW, light.class_ids, plain.fixes),
        DetectorMember(
            plain.kind, 416, plain.network, choices, LOW, light.class_ids, not plain.fixes
        ),
    ]
    at = prepared()
    keys = [key_of(each, at) for each in [plain, *others]]
    keys += [key_of(plain, prepared(1)), key_of(plain, prepared(0, (32, 0)))]
    keys += [key_of(plain, replace(at, source=(641, 360)))]
    keys += [key_of(plain, replace(at, inner=(832, 468)))]
    keys += [key_of(plain, replace(at, bgr=at.bgr.reshape(96, 64, 3)))]
    assert len(set(keys)) == len(keys)
    assert key_of(member(), prepared()) == keys[0]


def test_a_new_version_finds_nothing_of_an_old_one(
    light: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(light.members[0], prepared())
    monkeypatch.setattr(answer_cache, "_VERSION", answer_cache._VERSION + 1)
    assert key_of(light.members[0], prepared()) != before


def test_two_inputs_with_one_key_do_not_share_an_answer(light: Detector) -> None:
    """Injected: whatever the memory is asked for, it gives what was kept for another input."""

    class Colliding(Dictionary):
        def find(self, key: bytes) -> bytes | None:
            return super().find(key[:0])

        def keep(self, key: bytes, value: bytes) -> None:
            super().keep(key[:0], value)

    remembering = Recall(Colliding())
    pictures = [scene(n) for n in (0, 1, 1, 0, 2)]
    found = [light.detect([picture], [remembering])[0] for picture in pictures]
    assert all(same(a, b) for a, b in zip(found, light.detect(pictures), strict=True))
    counts = remembering.counts
    assert (counts.hits, counts.misses, counts.refused) == (1, 4, 3)


def boxes(n: int) -> Boxes:
    rng = np.random.default_rng(n)
    xyxy, scores = rng.random((n, 4), np.float32) * 1000, rng.random(n, np.float32)
    return Boxes(xyxy, scores, rng.integers(0, 80, n, np.int32))


@given(st.integers(0, 100))
def test_a_value_gives_its_boxes(n: int) -> None:
    found = boxes_of(prepared(), value_of(prepared(), boxes(n)))
    assert found is not None
    assert same(found, boxes(n))
    assert boxes_of(prepared(1), value_of(prepared(), boxes(n))) is None


def test_features_are_remembered_and_protected() -> None:
    features = np.arange(-120, 120, dtype=np.int8).reshape(3, 80)
    known = replace(boxes(3), features=features)
    value = value_of(prepared(), known)
    found = boxes_of(prepared(), value)
    assert found is not None
    assert found.features is not None
    np.testing.assert_array_equal(found.features, features)
    assert found.to_bytes() == known.to_bytes()
    spoilt = bytearray(value)
    spoilt[20] ^= 1
    assert boxes_of(prepared(), bytes(spoilt)) is None


@given(st.integers(0, 8 + 3 * 21 - 1), st.integers(1, 255))
def test_a_damaged_value_gives_nothing(at: int, flipped: int) -> None:
    value = bytearray(value_of(prepared(), boxes(3)))
    assert boxes_of(prepared(), bytes(value[:at])) is None
    assert boxes_of(prepared(), bytes(value) + bytes(at + 1)) is None
    value[at] ^= flipped
    assert boxes_of(prepared(), bytes(value)) is None


@pytest.mark.parametrize("class_id", [80, 255])
def test_an_answer_of_a_class_that_there_is_none_of_is_a_miss(
    light: Detector, remembering: Recall, class_id: int
) -> None:
    """Whoever writes into the store can reckon its digest."""
    alone = light.detect([scene(0)])[0]
    strange = Boxes(alone.xyxy, alone.scores, np.full(len(alone), class_id, np.int32))
    (member,) = light.members
    seen = member.prepare(scene(0))
    remembering._memory.keep(key_of(member, seen), value_of(seen, strange))
    assert same(light.detect([scene(0)], [remembering])[0], alone)
    assert (remembering.counts.hits, remembering.counts.refused) == (0, 1)


# -- switched off by itself


def test_rare_hits_switch_it_off_and_a_sample_goes_on() -> None:
    worth, asked = Worth(), 0
    for n in range(10_000):
        key = n.to_bytes(2, "little")
        if worth.asks(key[0]):
            worth, asked = worth.after(hit=False), asked + 1
    assert not worth.on
    assert asked <= 2048 + (10_000 - 2048) // 16 + 16


def test_what_begins_to_repeat_switches_it_on() -> None:
    """The sample is of contents: of what comes again, the sampled part is found again."""
    worth = Worth(on=False)
    seen: set[bytes] = set()
    for n in range(2 * 500):
        key = ((n % 500) * 7919 % 65536).to_bytes(2, "little")
        if worth.asks(key[0]):
            worth = worth.after(key in seen)
            seen.add(key)
    assert worth.on


@pytest.mark.parametrize(("share", "stays"), [(0.02, False), (0.2, True)])
def test_how_often_hits_must_come(share: float, stays: bool) -> None:
    worth = Worth()
    for hit in np.random.default_rng(0).random(2048) < share:
        worth = worth.after(bool(hit))
    assert worth.on == stays


def test_switched_off_it_changes_no_answer_and_asks_little(light: Detector) -> None:
    memory = Dictionary()
    remembering = Recall(memory)
    remembering.worth = Worth(on=False)
    pictures = [scene(n) for n in range(12)]
    found = light.detect(pictures, [remembering] * 12)
    assert all(same(a, b) for a, b in zip(found, light.detect(pictures), strict=True))
    assert memory.asked + remembering.counts.skipped == 12
    assert memory.asked == len(memory.values) < 6


def test_the_answers_that_were_not_used_for_the_longest_time_are_dropped() -> None:
    """Each entry takes 1 byte of key, 99 of value and 300 around them: 10 have room in 4000."""
    memory = RecentAnswers(max_bytes=4000)
    for number in range(10):
        memory.keep(bytes([number]), bytes(99))
    assert memory.find(b"\x00") == bytes(99)
    memory.keep(b"\x0a", bytes(99))
    assert [memory.find(bytes([number])) is None for number in (0, 1, 2)] == [False, True, False]
    memory.keep(b"\x0a", b"")
    assert memory.find(b"\x0a") == b""
    assert memory.bytes == 9 * 400 + 301
