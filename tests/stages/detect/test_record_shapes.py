"""A record of the detect stage cannot be made with arrays that do not belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from framegate.models.boxes import Boxes
from framegate.models.errors import ArrayMismatch
from framegate.models.gate.settings import DEFAULT
from framegate.models.gate.state import TileLevels
from framegate.models.tracking.track_state import no_tracks
from framegate.stages.detect.estimate import Estimate, LookEvidence
from framegate.stages.detect.memory import ShownBoxes, SourceMemory

TWO = Boxes(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int32))
IDS = np.array([7, 0], np.int32)


def estimate() -> Estimate:
    features = np.zeros((2, 8), np.int8)
    origins = ("detected", "carried")
    return Estimate(SourceMemory(), no_tracks(), TWO, IDS, origins, 0.0, features)


def evidence() -> LookEvidence:
    return LookEvidence([TWO], np.ones(3, np.bool_), np.zeros((1, 4), np.float32))


def shown() -> ShownBoxes:
    return ShownBoxes(np.array([4, 1]), TWO, IDS, ("carried", "carried"))


def levels() -> TileLevels:
    each = np.ones((2, 3, 5), np.int16)
    return TileLevels(DEFAULT, each, each, each, np.ones((2, 3, 5), np.bool_), (1, 1))


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (estimate, "ids", IDS[:1]),
        (estimate, "ids", IDS.astype(np.int64)),
        (estimate, "origins", ("detected",)),
        (estimate, "features", np.zeros((3, 8), np.int8)),
        (estimate, "features", np.zeros((2, 8), np.float32)),
        (evidence, "judged", np.ones(3, np.int8)),
        (evidence, "judged", np.ones((3, 1), np.bool_)),
        (evidence, "doubted", np.zeros((1, 5), np.float32)),
        (evidence, "doubted", np.zeros((1, 4), np.float64)),
        (shown, "rows", np.array([4])),
        (shown, "rows", np.array([4, 1], np.int32)),
        (shown, "ids", IDS[:1]),
        (shown, "carried", ("carried",)),
        (levels, "over", np.ones((3, 5), np.int16)),
        (levels, "at_once", np.ones((2, 3, 4), np.int16)),
        (levels, "calm", np.ones((2, 3, 5), np.uint8)),
        (levels, "counts", np.ones((2, 3, 5), np.int16)),
    ],
)
def test_a_record_refuses_an_array_that_does_not_fit(
    make: Callable[[], Any], name: str, value: object
) -> None:
    with pytest.raises(ArrayMismatch, match=f"^{name}: expected "):
        replace(make(), **{name: value})


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (estimate, ["ids", "features"]),
        (evidence, ["judged", "doubted"]),
        (shown, ["rows", "ids"]),
        (levels, ["over", "at_once", "calm", "counts"]),
    ],
)
def test_the_arrays_of_a_record_are_read_only(make: Callable[[], Any], names: list[str]) -> None:
    record = make()
    for name in names:
        assert not getattr(record, name).flags.writeable


def test_an_estimate_may_know_no_features() -> None:
    assert replace(estimate(), features=None).features is None
