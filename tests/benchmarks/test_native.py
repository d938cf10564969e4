"""Recall of small people: what counts as found, and what as small."""

import numpy as np
import pytest

pytest.importorskip("trackeval", reason="trackeval is not installed (bench extra)")

from benchmarks import native
from models.boxes import Boxes
from models.crops import DEFAULT, Look

PEOPLE = np.array([[0, 0, 10, 40], [100, 0, 120, 80]], np.float32)


def boxes(*rows: tuple[float, ...]) -> Boxes:
    n = len(rows)
    table = np.array(rows, np.float32).reshape(n, 4)
    return Boxes(table, np.full(n, 0.5, np.float32), np.zeros(n, np.int32))


def test_each_person_is_found_once() -> None:
    twice = boxes((0, 0, 10, 40), (0, 0, 10, 42))
    assert native.met(twice.xyxy, PEOPLE).tolist() == [True, False]
    assert not native.met(twice.xyxy[:0], PEOPLE).any()


def test_what_is_told() -> None:
    whole, closer = native.Found(), native.Found()
    whole.add(boxes((100, 0, 120, 80)), PEOPLE, [True, False])
    closer.add(boxes((0, 0, 10, 40), (100, 0, 120, 80), (300, 0, 310, 9)), PEOPLE, [True, False])
    for found, pixels, seconds in ((whole, 100, 0.1), (closer, 150, 0.3)):
        found.pixels.append(pixels)
        found.seconds.append(seconds)
    assert whole.told("whole", whole)["recall_small"] == 0
    assert closer.told("closer", whole) == {
        "way": "closer",
        "recall_small": 1.0,
        "recall": 1.0,
        "precision": 0.6667,
        "pixels": 1.5,
        "time": 3.0,
    }


def test_ways_are_fixed_looks_and_settings() -> None:
    ways = native.ways((1920, 1080), 416)
    assert ways["whole"] == (Look((0, 0, 416, 256)),)
    assert ways["whole, twice as large"] == (Look((0, 0, 832, 480), 2),)
    assert ways["parts"] == DEFAULT
