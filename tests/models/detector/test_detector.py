"""Detectors: answers that depend on the picture alone, in source pixels, by the frozen policy."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from framegate.models import coco
from framegate.models.boxes import SAME, Boxes, iou
from framegate.models.detector import policy
from framegate.models.detector.detector import Detector, load
from framegate.models.errors import (
    ArrayMismatch,
    TooManyInFlight,
    UnknownClass,
    UnknownDetector,
    WholePicturesOnly,
)
from framegate.models.gate import crops
from framegate.models.gate.crops import Crop
from framegate.models.picture import Picture, cut, from_bgr, prepare, read_photograph

LOW = 0.02


def scene(seed: int, height: int = 180, width: int = 320) -> Picture:
    """Blobs that the networks take for all sorts of things at a low threshold."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return from_bgr(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.fixture(scope="module")
def light() -> Detector:
    return load("light", "f32", 1, min_score=LOW)


@pytest.fixture(scope="module")
def heavy() -> Detector:
    return load("heavy", "f32", 1, min_score=LOW)


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("FRAMEGATE_DATA")
    if folder is None:
        pytest.skip("FRAMEGATE_DATA does not name the folder of test data")
    return Path(folder)


def same(a: Boxes, b: Boxes) -> bool:
    return (
        np.array_equal(a.xyxy, b.xyxy)
        and np.array_equal(a.scores, b.scores)
        and np.array_equal(a.class_ids, b.class_ids)
    )


@pytest.mark.parametrize("which", ["light", "heavy"])
def test_an_answer_depends_on_its_picture_alone(which, request):
    detector = request.getfixturevalue(which)
    pictures = [scene(0), scene(1, 100, 130), scene(2, 333, 201)]
    alone = [detector.detect([picture])[0] for picture in pictures]
    together = detector.detect(pictures)
    backwards = detector.detect(pictures[::-1])[::-1]
    assert sum(map(len, alone)) > 10
    for i, one in enumerate(alone):
        assert same(one, together[i])
        assert same(one, backwards[i])


def test_boxes_lie_in_the_picture_and_are_sorted(light, heavy):
    for detector in (light, heavy):
        boxes = detector.detect([scene(2, 333, 201)])[0]
        assert (np.diff(boxes.scores) <= 0).all()
        assert (boxes.scores > np.float32(LOW)).all()
        assert boxes.xyxy.min() >= 0
        assert (boxes.xyxy[:, 2] <= 201).all()
        assert (boxes.xyxy[:, 3] <= 333).all()
        assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
        assert len(boxes) <= detector.choices.max_boxes


def test_no_picture_no_answer(light):
    assert light.detect([]) == []


def test_answers_may_be_read_in_any_order(light):
    pictures = [scene(i) for i in range(4)]
    (member,) = light.members
    inputs = [member.prepare(picture) for picture in pictures]
    pending = [member.start(each) for each in inputs]
    with pytest.raises(TooManyInFlight):
        member.start(inputs[0])
    found = [light.joined([each.finish()]) for each in reversed(pending)][::-1]
    assert all(same(a, b) for a, b in zip(found, light.detect(pictures), strict=True))


def test_a_picture_that_cannot_be_read_blocks_nothing(light):
    for _ in range(6):
        with pytest.raises(AttributeError):
            light.detect([scene(0), None])
    assert light.detect([scene(0)])


def test_a_look_at_the_whole_is_a_whole_pass(light):
    looked = light.look(scene(0), [crops.whole(320, 180, 416)])
    assert same(looked[0], light.detect([scene(0)])[0])
    assert light.look(scene(0), []) == []


def test_pictures_of_other_sizes_change_no_answer(light):
    """Law 6: nor does it when a part of one has the shape of another's whole."""
    fresh = load("light", "f32", 1, min_score=LOW)
    upright, part = scene(3, 416, 320), Crop((0, 0, 320, 416))
    square = scene(4, 416, 416)
    alone = fresh.look(square, [part])[0]
    assert fresh.members[0].prepare(upright).bgr.shape == (416, 320, 3)
    fresh.warm_up(320, 416)
    wanted = fresh.detect([upright])[0]
    assert same(fresh.look(square, [part])[0], alone)
    assert same(light.detect([upright])[0], wanted)  # whether it was warmed up or not


def test_a_part_of_a_size_of_the_gate_has_its_own_network_whatever_came_before(light):
    picture, other = scene(3), Crop((0, 0, 128, 96))
    first, again = load("light", "f32", 1, min_score=LOW), load("light", "f32", 1, min_score=LOW)
    again.warm_up(320, 180)
    for width, height in crops.sizes(320, 180, 416)[:-1]:
        part = Crop((32, 0, 32 + width, height))
        wanted = first.look(picture, [part])[0]
        assert same(again.look(picture, [other, part])[1], wanted)
        assert same(light.look(picture, [part])[0], wanted)


def test_a_look_answers_in_pixels_of_the_source(light):
    """The network sees the same numbers in a look as in a picture of that look's size."""
    picture = scene(3, 832, 832)
    look = Crop((128, 64, 416, 352))
    part = light.look(picture, [look])[0]
    pixels = prepare(picture, 416).bgr[64:352, 128:416]
    alone = from_network(light, np.ascontiguousarray(pixels))
    np.testing.assert_allclose(part.scores, alone.scores)
    inside = np.clip((alone.xyxy + np.array([128, 64] * 2)) * 2, 0, 832)
    np.testing.assert_allclose(part.xyxy, inside, rtol=1e-5, atol=1e-2)
    assert len(part) > 3


def test_looks_answer_in_their_order(light):
    looks = [Crop((32 * i, 0, 32 * i + 128, 96)) for i in range(5)]
    together = light.look(scene(0), looks)
    backwards = light.look(scene(0), looks[::-1])[::-1]
    assert all(same(a, b) for a, b in zip(together, backwards, strict=True))


def from_network(
    detector: Detector,
    bgr: np.ndarray,
    *,
    is_part: bool = True,
    ids: Sequence[int] = range(coco.N_CLASSES),
) -> Boxes:
    from framegate.models.boxes import suppress
    from framegate.models.formats.nanodet import NANODET_PLUS, decode_cells

    network = detector.members[0].network
    size = bgr.shape[1], bgr.shape[0]
    token = network.submit(bgr, fixed=not is_part)
    found = network.read(token, lambda out: decode_cells(out[0], size, LOW, grid=NANODET_PLUS))
    found = found.take(np.isin(found.class_ids, ids))
    keep = suppress(found.xyxy, found.scores)
    return found.take(keep[:100])


@pytest.mark.parametrize(
    "rect", [(0, 0, 31, 32), (0, 0, 448, 32), (-32, 0, 32, 32), (32, 0, 32, 32), (1, 0, 33, 32)]
)
def test_looks_are_multiples_of_32_inside(light, rect):
    with pytest.raises(ArrayMismatch, match="rect"):
        light.look(scene(0), [Crop(rect)])


def test_the_heavy_pass_takes_whole_pictures(heavy):
    with pytest.raises(WholePicturesOnly):
        heavy.look(scene(0), [Crop((0, 0, 32, 32))])
    with pytest.raises(WholePicturesOnly):
        heavy.look(scene(0), [])


def test_what_is_not_looked_for_hides_nothing(light):
    """Among two classes a thing is one of them, though with all it was taken for a third."""
    picture = scene(0, 256, 416)  # fills the input
    everything = light.detect([picture])[0]
    ids = sorted(set(everything.class_ids.tolist()))[:2]
    some = load("light", "f32", 1, min_score=LOW, classes=[coco.LABELS[i] for i in ids])
    found = some.detect([picture])[0]
    alone = from_network(light, prepare(picture, 416).bgr, is_part=False, ids=ids)
    np.testing.assert_array_equal(found.scores, alone.scores)
    np.testing.assert_array_equal(found.class_ids, alone.class_ids)
    assert len(found) > np.isin(everything.class_ids, ids).sum()
    assert some.policy_id != light.policy_id


def test_a_thing_has_one_box(light, heavy):
    for detector in (light, heavy):
        found = detector.detect([scene(0)])[0]
        assert len(found) > 1
        assert (np.triu(iou(found.xyxy, found.xyxy), 1) <= SAME + 1e-6).all()


def test_min_score_cuts_the_answer(light):
    everything = light.detect([scene(0)])[0]
    middle = float(everything.scores[10:12].mean())
    cut_off = load("light", "f32", 1, min_score=middle).detect([scene(0)])[0]
    assert same(cut_off, everything.take(np.arange(11)))


def test_names_and_policy():
    f32, int8 = load("light", "f32"), load("light", "int8")
    assert [name.split("@")[0] for name in f32.models + int8.models] == [
        "nanodet-plus-416-f32",
        "nanodet-plus-416-int8",
    ]
    assert len(f32.models[0].split("@")[1]) == 8
    assert f32.policy_id != int8.policy_id
    assert f32.policy_id == load("light", "f32", 2).policy_id
    frozen = policy.load("heavy")
    assert frozen.parts == (
        ("nanodet-plus", 416),
        ("nanodet-plus", 512),
        ("surveillance-large", 864),
    )


def test_wrong_arguments():
    with pytest.raises(UnknownDetector) as caught:
        load("medium")
    assert caught.value.known == policy.names()
    with pytest.raises(UnknownClass):
        load("light", classes=["dragon"])
    for score in (0, 1, -0.5, 2):
        with pytest.raises(ValueError, match="min_score"):
            load("light", min_score=score)


def test_warm_up(light, heavy):
    light.warm_up(1920, 1080)
    heavy.warm_up(320, 240)


def test_giraffes(data):
    """One photograph whose content is known: two giraffes and two cows or sheep behind."""
    picture = read_photograph(data / "images" / "coco128" / "000000000025.jpg")
    for detector in (load("light"), load("heavy")):
        boxes = detector.detect([picture])[0]
        assert coco.LABELS[boxes.class_ids[0]] == "giraffe"
        assert set(boxes.class_ids.tolist()) <= set(range(14, 24))
    part = cut(picture, (320, 0, 640, 426))
    whole = boxes.xyxy[0]
    again = load("light").detect([part])[0].moved(320, 0).xyxy[0]
    assert np.abs(whole - again).max() < 40
