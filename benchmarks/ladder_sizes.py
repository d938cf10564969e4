"""Fits the curve of `models/ladder.py`: how likely an object of some size is found.

    python -m benchmarks.ladder_sizes --data FOLDER

Truth is what the heavy pass sees on images/coco128, and no other set may be used: the others are
for judging. One curve serves all rungs, over the side of an object in pixels of the model:
most / (1 + exp(-log2(side / half_px) / octaves)). Prints each rung's share by size, and the fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from benchmarks import agreement
from benchmarks.ladder_run import detectors
from benchmarks.report import Benchmark, Option, Result, conditions
from benchmarks.scoring import read_labelled
from models import detector, policy
from models.boxes import Boxes
from models.ladder import DEFAULT
from models.network import nearest
from models.nms import area
from models.picture import Picture, read_photograph

Array = npt.NDArray[Any]
SET: Final = "coco128"
EDGES: Final = (8, 12, 16, 20, 24, 32, 48, 64, 128)
_START: Final = (22.0, 0.4, 0.8)
_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Curve:
    """As `LadderSettings` has it; most: 0..1, the share that is found of large objects."""

    half_px: float
    octaves: float
    most: float

    def at(self, sides: Array) -> Array:
        """Chances (N,) of objects with these sides (N,), in pixels of the model."""
        chances: Array = self.most / (1 + np.exp(-np.log2(sides / self.half_px) / self.octaves))
        return chances


def fit(sides: Array, found: Array) -> Curve:
    """The likeliest curve for objects of these sides (N,) that were found or not, bool (N,)."""

    def unlikely(values: Array) -> float:
        if min(values) <= 0 or values[2] > 1:
            return float("inf")
        chances = np.clip(Curve(*values).at(sides), _TINY, 1 - _TINY)
        return -float(np.mean(np.where(found, np.log(chances), np.log1p(-chances))))

    best = minimize(unlikely, _START, method="Nelder-Mead").x
    return Curve(*(float(value) for value in best))


def looked_for(
    pictures: Sequence[Picture], shown: Sequence[Boxes], truth: Sequence[Boxes], long_side: int
) -> tuple[Array, Array]:
    """Sides in model pixels of all true objects, and which of them are shown."""
    sides, found = [], []
    for picture, ours, theirs in zip(pictures, shown, truth, strict=True):
        scale = long_side / max(picture.width, picture.height)
        sides.append(np.sqrt(area(theirs.xyxy)) * scale)
        met = np.zeros(len(theirs), np.bool_)
        met[agreement.pairs(ours, theirs)[1]] = True
        found.append(met)
    return np.concatenate(sides).astype(np.float64), np.concatenate(found)


def whole(given: argparse.Namespace) -> Result:
    """The whole result."""
    labelled = read_labelled(given.data, SET, given.pictures)
    cv2.setNumThreads(1)
    pictures = [read_photograph(file) for file in labelled.files]
    light = policy.load("light")
    truth = detector.load("heavy").detect(pictures)
    every, rows = [], []
    using = detectors(DEFAULT.rungs, nearest(light.precision))
    for side, one in zip(DEFAULT.rungs, using, strict=True):
        found = one.detect(pictures)
        shown = [boxes.take(boxes.scores > np.float32(light.min_score)) for boxes in found]
        sides, met = looked_for(pictures, shown, truth, side)
        every.append((sides, met))
        bins = np.digitize(sides, EDGES)
        shares = [round(float(met[bins == n].mean()), 2) for n in np.unique(bins)]
        rows.append({"rung": side, "edges": EDGES, "found": shares})
        print(json.dumps(rows[-1]), flush=True)
    curve = fit(*(np.concatenate(parts) for parts in zip(*every, strict=True)))
    told = (curve.half_px, curve.octaves, curve.most)
    fitted = dict(zip(Curve.__slots__, (round(v, 3) for v in told), strict=True))
    return {"curve": fitted, "rungs": rows, "conditions": conditions(("openvino",), set=SET)}


BENCHMARK = Benchmark(
    name="ladder_sizes",
    measure=whole,
    needs=("clips", "bench"),
    options={"pictures": Option(10**9, 8, "most of the set")},
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
