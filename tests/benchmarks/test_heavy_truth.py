"""What the heavy pass says, kept: asked once for a picture, whatever cut the file off."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.harness.heavy_truth import DetectorAnswers, key_of, truths
from framegate.models.detector import detector
from framegate.models.picture import Picture, from_bgr


def picture(level: int) -> Picture:
    return from_bgr(np.full((48, 64, 3), level, np.uint8))


def test_an_equal_picture_is_asked_once_and_a_torn_line_again(tmp_path: Path) -> None:
    light = detector.load("light", min_score=0.01)
    scene = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    pictures = [from_bgr(scene), picture(20), from_bgr(scene.copy())]
    with DetectorAnswers(tmp_path, light) as answers:
        first = truths(pictures, answers, 3)
        assert len(answers) == 2
    expected = light.detect([pictures[0]])[0]
    assert len(expected) > 0
    for truth in (first[0], first[2]):
        assert np.array_equal(truth.boxes.xyxy, expected.xyxy)
        assert np.array_equal(truth.boxes.class_ids, expected.class_ids)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    with DetectorAnswers(tmp_path, light) as answers:
        assert len(answers) == 1
        again = truths(pictures, answers, 3)
        assert len(answers) == 2
    assert [truth.key for truth in again] == [truth.key for truth in first]
    for a, b in zip(again, first, strict=True):
        assert np.array_equal(a.boxes.xyxy, b.boxes.xyxy)
        assert np.array_equal(a.boxes.scores, b.boxes.scores)
    with DetectorAnswers(tmp_path, light) as answers:
        assert len(answers) == 2


def test_two_processes_may_add_to_a_file(tmp_path: Path) -> None:
    light = detector.load("light")
    with DetectorAnswers(tmp_path, light) as one:
        one.of(picture(20))
        with DetectorAnswers(tmp_path, light) as other:
            other.of(picture(30))
            one.of(picture(40))
            assert len(other) == 2
    with DetectorAnswers(tmp_path, light) as answers:
        assert len(answers) == 3


def test_a_key_tells_every_byte_and_its_meaning() -> None:
    plain = picture(20)
    other = Picture(plain.y, plain.u, plain.v, "bt709", plain.full_range)
    changed = plain.y.copy()
    changed[0, 0] += 1
    keys = {key_of(one) for one in (plain, other, Picture(changed, plain.u, plain.v, plain.matrix))}
    assert len(keys) == 3
