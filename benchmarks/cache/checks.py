"""Inputs that must never be answered from memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy
from framegate.models.detector.answer_cache import AnswerMemory, Recall
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import Precision, supported
from framegate.models.picture import Picture

Row = dict[str, Any]


class Dictionary:
    """A memory that forgets nothing."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def find(self, key: bytes) -> bytes | None:
        """The value."""
        return self.values.get(key)

    def keep(self, key: bytes, value: bytes) -> None:
        """Have it."""
        self.values[key] = value


class Colliding(Dictionary):
    """All inputs have one key."""

    def find(self, key: bytes) -> bytes | None:
        """What was kept last."""
        return super().find(key[:0])

    def keep(self, key: bytes, value: bytes) -> None:
        """In place of what was kept last."""
        super().keep(key[:0], value)


def changes_miss(pictures: Sequence[Picture], precision: Precision) -> dict[str, int]:
    """Hits of detectors that differ in one thing from the one whose answers are known."""
    memory = Dictionary()
    plain = detector.load("light", precision, 1)
    _hits(plain, pictures, memory)
    choices = policy.load("light")
    made: dict[str, Detector] = {
        "threads": detector.load("light", precision, 2),
        "min_score": detector.load("light", precision, 1, min_score=choices.min_score + 0.01),
        "classes": detector.load("light", precision, 1, classes=["person", "car"]),
    }
    for other in supported():
        if other != precision:  # INT8 has weights of its own
            same_weights = other.startswith("int8") == precision.startswith("int8")
            made["precision" if same_weights else "weights"] = detector.load("light", other, 1)
    told = {"nothing": _hits(plain, pictures, memory)}
    for name, changed in made.items():
        copy = Dictionary()
        copy.values = dict(memory.values)
        told[name] = _hits(changed, pictures, copy)
    return told


def _hits(using: Detector, pictures: Sequence[Picture], memory: AnswerMemory) -> int:
    recall = Recall(memory)
    using.detect(pictures, [recall] * len(pictures))
    return recall.counts.hits


def collisions(using: Detector, pictures: Sequence[Picture]) -> Row:
    """Every input finds what was kept for another one: how often that is caught, and believed."""
    recall = Recall(Colliding())
    wanted = using.detect(pictures)
    found = [using.detect([picture], [recall])[0] for picture in pictures]
    believed = sum(not _same(a, b) for a, b in zip(found, wanted, strict=True))
    counts = recall.counts
    return {"inputs": len(pictures), "caught": counts.refused, "hits": counts.hits,
            "answers_that_differ": believed}  # fmt: skip


def _same(a: Boxes, b: Boxes) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__slots__)
