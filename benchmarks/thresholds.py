"""Chooses the score thresholds that `models/policy.toml` freezes (needs the `bench` extra).

    python -m benchmarks.thresholds --data FOLDER

Each detector answers every box it has for images/coco128; the threshold with the best F1 at IoU .50
is printed. No other set may be used for this: the others are for judging.
"""

import argparse
import json
from pathlib import Path

from benchmarks.scoring import best_threshold, match, read_labelled
from models import detector
from models.network import supported
from models.picture import read_photograph

SET = "coco128"
LOWEST = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    labelled = read_labelled(parser.parse_args().data, SET)
    pictures = [read_photograph(file) for file in labelled.files]
    for name in ("light", "heavy"):
        for precision in supported():
            loaded = detector.load(name, precision, 1, min_score=LOWEST)
            matches = match(labelled, loaded.detect(pictures))
            threshold, f1 = best_threshold(matches)
            row = {"name": name, "precision": precision, "min_score": threshold, "f1": round(f1, 4)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
