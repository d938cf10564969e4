"""Chooses the score thresholds that `detector/policy.toml` freezes (needs the `bench` extra).

    python -m benchmarks.thresholds --data FOLDER

Each detector answers every box it has for images/coco128; the threshold with the best F1 at IoU .50
is printed. No other set may be used for this: the others are for judging.
"""

import argparse
import json
import sys

from benchmarks.harness.report import Benchmark, Option, Result, conditions
from benchmarks.harness.scoring import best_threshold, match, read_labelled
from framegate.models.detector import detector
from framegate.models.detector.network import supported
from framegate.models.picture import read_photograph

SET = "coco128"
LOWEST = 0.05


def whole(given: argparse.Namespace) -> Result:
    """The whole result."""
    labelled = read_labelled(given.data, SET, given.pictures)
    pictures = [read_photograph(file) for file in labelled.files]
    rows = []
    for name in ("light", "heavy"):
        for precision in supported():
            loaded = detector.load(name, precision, 1, min_score=LOWEST)
            threshold, f1 = best_threshold(match(labelled, loaded.detect(pictures)))
            row = {"name": name, "precision": precision, "min_score": threshold, "f1": round(f1, 4)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {"thresholds": rows, "conditions": conditions(("openvino", "numpy"), set=SET)}


BENCHMARK = Benchmark(
    name="thresholds",
    measure=whole,
    needs=("clips", "bench"),
    options={"pictures": Option(10**9, 4, "most of the set")},
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
