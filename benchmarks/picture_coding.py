"""Measure coded pictures: bytes, and agreement with the heavy pass on raw pixels.

    python -m benchmarks.picture_coding --data FOLDER [--frames N] [--write]

Only images/coco128 and the clips that may be used for tuning: the default is chosen here. F1 at IoU
.5 of the heavy pass on what came out of the code against the heavy pass on the same raw pixels.
Beside them what noise of one grey level does: boxes near the threshold come and go for less than
any code costs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.harness.gate_clips import ClipFrame, GateClip
from benchmarks.harness.report import Benchmark, BenchmarkResult, Option, conditions
from framegate.models import matching
from framegate.models.boxes import Boxes
from framegate.models.detector import detector
from framegate.models.detector.detector import Detector
from framegate.models.picture import Picture, from_bgr, read_photograph, to_bgr
from framegate.models.picture_coding import DEFAULT, Coding, decode, encode, placed

CLIPS = ("bottle-detection", "car-detection", "one-by-one-person-detection")
Coded = tuple[int, Picture]  # bytes, and what comes out of them


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    sets = _sets(given.data, given.frames, given.photographs)
    heavy = detector.load("heavy", threads=2)
    raw = {name: heavy.detect(pictures) for name, pictures in sets.items()}
    rows = {}
    for name, code in _codings().items():
        rows[name] = coded_row(code, sets, raw, heavy)
        print(name, rows[name], flush=True)
    told = conditions(
        ("openvino", "opencv-python-headless", "av"),
        models=heavy.models,
        pictures={name: len(pictures) for name, pictures in sets.items()},
        default=asdict(DEFAULT),
    )
    return {"codings": rows, "conditions": told}


def _codings() -> dict[str, Callable[[Picture], Coded]]:
    jpegs = [Coding(scale, 1280) for scale in (1, 2, 3, 5)] + [Coding(2, 640)]
    return {
        **{f"jpeg scale {c.scale}, at most {c.longest}": partial(as_jpeg, coding=c) for c in jpegs},
        **{f"webp {quality}": partial(_webp, quality=quality) for quality in (90, 95)},
        "one grey level of noise": noisy,
    }


def as_jpeg(picture: Picture, coding: Coding) -> Coded:
    """As a question's picture goes over a wire."""
    data = encode(picture, coding)
    return len(data), decode(data, picture.matrix, picture.full_range)


def _webp(picture: Picture, quality: int) -> Coded:
    bgr = to_bgr(picture, (picture.width, picture.height))
    data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return len(data), from_bgr(decoded.astype(np.uint8, copy=False))


def noisy(picture: Picture) -> Coded:
    """With luma off by one level at most, the same for the same picture."""
    rng = np.random.default_rng(picture.y[::16, ::16].sum())
    grey = picture.y.astype(np.int16) + rng.integers(-1, 2, picture.y.shape)
    y = np.clip(grey, 0, 255).astype(np.uint8)
    whole = Picture(y, picture.u, picture.v, picture.matrix, picture.full_range)
    return _raw_bytes(picture), whole


def coded_row(
    code: Callable[[Picture], Coded],
    sets: dict[str, list[Picture]],
    raw: dict[str, list[Boxes]],
    heavy: Detector,
) -> dict[str, Any]:
    """Agreement and bytes of each set; raw: what `heavy` found in the pictures as they are."""
    row: dict[str, Any] = {}
    spent_s, n_pictures = 0.0, 0
    for name, pictures in sets.items():
        begin = time.thread_time()
        coded = [code(picture) for picture in pictures]
        spent_s += time.thread_time() - begin
        n_pictures += len(pictures)
        counts = matching.matched(_look([small for _, small in coded], pictures, heavy), raw[name])
        fewer = sum(map(_raw_bytes, pictures)) / sum(n_bytes for n_bytes, _ in coded)
        row[name] = {"f1": round(matching.f1(counts), 4), "times_fewer_bytes": round(fewer, 1)}
        row[name]["boxes"] = int(counts[:, 2].sum())
    return row | {"there_and_back_ms": round(1000 * spent_s / n_pictures, 2)}


def _look(coded: list[Picture], pictures: list[Picture], heavy: Detector) -> list[Boxes]:
    return [
        placed(boxes, (small.width, small.height), (0, 0, picture.width, picture.height))
        for boxes, small, picture in zip(heavy.detect(coded), coded, pictures, strict=True)
    ]


def _raw_bytes(picture: Picture) -> int:
    return picture.y.nbytes + picture.u.nbytes + picture.v.nbytes


def _sets(data: Path, frames: int, most: int) -> dict[str, list[Picture]]:
    """The photographs, and of each clip so many frames, evenly spread."""
    photographs = sorted((data / "images" / "coco128").glob("*.jpg"))
    sets = {"coco128": [read_photograph(path) for path in photographs[:most]]}
    for name in CLIPS:
        sets[name] = of_clip(data / "clips" / f"{name}.mp4", frames)
    return sets


def of_clip(path: Path, frames: int) -> list[Picture]:
    """So many frames, evenly spread."""
    shots = GateClip(path.stem, "quiet", path, 10**9, 0.0).shots()
    kept = [_copy(shot) for number, shot in enumerate(shots) if number % 3 == 0]
    return kept[:: max(1, len(kept) // frames)][:frames]


def _copy(shot: ClipFrame) -> Picture:
    picture = shot.picture
    planes = (picture.y.copy(), picture.u.copy(), picture.v.copy())
    return Picture(*planes, picture.matrix, picture.full_range)


BENCHMARK = Benchmark(
    name="picture_coding",
    measure=whole,
    needs=("clips",),
    options={
        "frames": Option(100, 1, "of each clip"),
        "photographs": Option(10**9, 4, "most of coco128"),
    },
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
