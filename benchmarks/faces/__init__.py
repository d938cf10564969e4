"""Measure the share of faces that are blurred, by their height, and the cost of a picture.

    python -m benchmarks.faces --data FOLDER [--write]

labels.json names, by picture or by frame of a clip, faces of the test data as people see them:
left, top, right, bottom in pixels. They were found by looking at each picture at twice its size or
more, and at the upper half of each labelled person; where the network at that size, told to report
anything, had drawn a face as a person would, its edges were taken over, and a face that neither it
nor a second look showed is in no label. Of crowds some faces are labelled: so recall is told, and
boxes of nothing are counted in photographs without people. A face counts as blurred where three
quarters of its box are. What ships was chosen on coco128 and one-by-one-person-detection alone
("chosen"); the others judge ("judged"). Intervals are Wilson's, of 95 %. CPU is the process's, on
one thread, beside whatever else runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from scipy.stats import binomtest

from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.models.boxes import FloatArray
from framegate.models.detector.faces import MIN_SCORE, FaceNetwork
from framegate.models.picture import Picture, from_bgr, read_photograph
from framegate.stages.draw.faces import WIDER
from framegate.stages.learning.int8_version import frames_at

LABELS: Final = Path(__file__).with_name("labels.json")
CHOSEN: Final = ("images/coco128/", "clips/one-by-one-person-detection.mp4")
EMPTY_OF: Final = "coco128"
HEIGHTS: Final = (6, 12, 20, 40, 1000)  # of faces, in pixels: where bands begin, and the last ends
LEAST_SCORES: Final = (MIN_SCORE, 0.15, 0.2, 0.3, 0.5)
BLURRED: Final = 0.75
WIDTHS: Final = (640, 960, 1280, 1920)  # of pictures that are shown

Face = tuple[float, float, float, float]


def measured(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    labels: dict[str, list[Face]] = json.loads(LABELS.read_text(encoding="utf-8"))
    names = sorted(labels)[:: max(1, len(labels) // given.pictures)]
    pictures = {name: _read(given.data, name) for name in names}
    network = FaceNetwork()
    curve = []
    for least in LEAST_SCORES:
        seen = {name: _seen(network, picture, least) for name, picture in pictures.items()}
        chosen = _counted(labels, {name: seen[name] for name in names if _is_chosen(name)})
        empty = _empty(given.data)[: given.pictures]
        boxes = [len(_seen(network, read_photograph(path), least)) for path in empty]
        curve.append(
            {
                "least_score": least,
                "recall": _share(*map(sum, zip(*chosen.values(), strict=True))),
                "boxes_of_nothing": round(sum(boxes) / len(boxes), 3),
            }
        )
    seen = {name: _seen(network, picture, MIN_SCORE) for name, picture in pictures.items()}
    rows = []
    for told, of in (("chosen", True), ("judged", False)):
        counted = _counted(labels, {n: each for n, each in seen.items() if _is_chosen(n) == of})
        for height, (found, faces) in sorted(counted.items()):
            told_height = f"{height} to {HEIGHTS[HEIGHTS.index(height) + 1] - 1}"
            if height == HEIGHTS[-2]:
                told_height = f"{height} and more"
            row = {"set": told, "height": told_height, "faces": faces, "blurred": found}
            rows.append({**row, **_share(found, faces)})
    return {
        "recall": rows,
        "curve": curve,
        "cpu": [_cost(network, width, given.rounds) for width in WIDTHS],
        "labelled": sum(map(len, labels.values())),
        "network": network.name,
        "conditions": conditions(("openvino", "numpy"), pictures=len(pictures)),
    }


def _is_chosen(name: str) -> bool:
    return name.startswith(CHOSEN)


def _read(data: Path, name: str) -> Picture:
    file, _, number = name.partition("#")
    if not number:
        return read_photograph(data / file)
    (picture,) = frames_at(str(data / file), [int(number)])
    return picture


def _empty(data: Path) -> list[Path]:
    """Photographs in which nobody is."""
    told = json.loads((data / "gt" / f"{EMPTY_OF}.json").read_text(encoding="utf-8"))
    people = {one["id"] for one in told["categories"] if one["name"] == "person"}
    with_people = {one["image_id"] for one in told["annotations"] if one["category_id"] in people}
    folder = data / "images" / EMPTY_OF
    names = [Path(one["file_name"]).name for one in told["images"] if one["id"] not in with_people]
    return [folder / name for name in sorted(names)]


def _seen(network: FaceNetwork, picture: Picture, least: float) -> FloatArray:
    return network.faces(picture, min_score=least).xyxy


def _counted(
    labels: Mapping[str, Sequence[Face]], seen: Mapping[str, FloatArray]
) -> dict[int, tuple[int, int]]:
    """By the least height of a band: how many faces are blurred, and how many there are."""
    found: defaultdict[int, int] = defaultdict(int)
    faces: defaultdict[int, int] = defaultdict(int)
    for name, places in seen.items():
        for face in labels[name]:
            height = face[3] - face[1]
            band = max((least for least in HEIGHTS[:-1] if least <= height), default=HEIGHTS[0])
            faces[band] += 1
            found[band] += hidden(face, places) >= BLURRED
    return {band: (found[band], count) for band, count in faces.items()}


def hidden(face: Face, places: FloatArray) -> float:
    """Return which share of a face's box is blurred where the network saw `places`."""
    left, top, right, bottom = (round(edge) for edge in face)
    inside = np.zeros((bottom - top, right - left), np.bool_)
    for x1, y1, x2, y2 in places.tolist():
        across, down = (x2 - x1) * WIDER / 2, (y2 - y1) * WIDER / 2
        x, y = (x1 + x2) / 2 - left, (y1 + y2) / 2 - top
        rows = slice(max(0, round(y - down)), max(0, round(y + down)))
        inside[rows, max(0, round(x - across)) : max(0, round(x + across))] = True
    return float(inside.mean())


def _share(found: int, faces: int) -> dict[str, float]:
    interval = binomtest(found, faces).proportion_ci(method="wilson")
    low, high = round(float(interval.low), 3), round(float(interval.high), 3)
    return {"share": round(found / faces, 3), "low": low, "high": high}


def _cost(network: FaceNetwork, width: int, rounds: int) -> dict[str, Any]:
    """CPU-ms of looking at a picture of this width, in 16:9."""
    noise = np.random.default_rng(1).integers(0, 255, (36, 64, 3), np.uint8)
    picture = from_bgr(cv2.resize(noise, (width, width * 9 // 16)).astype(np.uint8))
    network.faces(picture)
    began = time.process_time()
    for _ in range(rounds):
        network.faces(picture)
    return {"width": width, "cpu_ms": round(1000 * (time.process_time() - began) / rounds, 1)}


def bars(result: BenchmarkResult) -> list[Bar]:
    """Of faces that somebody could be known by; of the pictures that chose nothing."""
    rows = [row for row in result["recall"] if row["set"] == "judged"]
    large = [row for row in rows if not row["height"].startswith("6 ")]
    share = sum(row["blurred"] for row in large) / sum(row["faces"] for row in large)
    return [Bar("faces of 12 pixels and more that are blurred", round(share, 3), ">=", 0.9)]


BENCHMARK = Benchmark(
    name="faces",
    measure=measured,
    options={"pictures": Option(1000, 16, "at most"), "rounds": Option(20, 2)},
    needs=("clips",),
    bars=bars,
)
