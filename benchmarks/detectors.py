"""Accuracy and time of the detectors, each precision (needs the `bench` extra).

    python -m benchmarks.detectors --data FOLDER [--out benchmarks/results/detectors.json]

Accuracy: photographs are turned into planar YUV and go the way of a video picture, on
images/coco128 (which INT8 and the thresholds were tuned on) and images/coco-val2017-a (which
nothing was). Boxes above .05, at most 100 a picture. Time: median milliseconds of one inference at
4:3 (of the heavy pass: end to end), one and two threads, all variants of a model in turn. The last
line is the whole result as one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import openvino as ov

from benchmarks.harness.report import Benchmark, BenchmarkResult, Option
from benchmarks.harness.scoring import LabelledPhotographs, Score, match, read_labelled, score
from framegate.models import coco
from framegate.models.boxes import Boxes, FloatArray
from framegate.models.detector import policy
from framegate.models.detector.detector import Detector, build, fuse
from framegate.models.detector.member import DetectorMember, Runtime
from framegate.models.detector.network import Precision, cpu_model, supported
from framegate.models.picture import ByteArray, NetworkInput, Picture, read_photograph

SETS = ("coco128", "coco-val2017-a")
LOWEST = 0.05
THREADS = (1, 2)
ALL_CLASSES = tuple(range(coco.N_CLASSES))
# CenterNet has no INT8 file: its INT8 rows would repeat these two.
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "nanodet": ("f32", "bf16", "int8", "int8+bf16"),
    "centernet": ("f32", "bf16"),
}


@dataclass(frozen=True, slots=True)
class Photographs:
    """One labelled set, decoded."""

    labelled: LabelledPhotographs
    pictures: tuple[Picture, ...]


def single(
    member: str, precision: Precision, threads: int, min_score: float | None = None
) -> Detector:
    """A detector of one network, else as the light one."""
    light = policy.load("light").with_min_score(min_score)
    choices = replace(light, name=member, members=(member,))
    return build(choices, precision, threads, ALL_CLASSES)


def heavy(precision: Precision, threads: int) -> Detector:
    """The heavy pass as it is served."""
    return build(policy.load("heavy"), precision, threads, ALL_CLASSES)


def answers_by_member(sets: dict[str, Photographs]) -> dict[tuple[str, str], list[list[Boxes]]]:
    """(member, precision) -> for each set, the boxes of each photograph."""
    found: dict[tuple[str, str], list[list[Boxes]]] = {}
    for member in policy.load("heavy").members:
        for precision in precisions(member.split("-")[0]):
            detector = single(member, precision, max(THREADS), LOWEST)
            found[member, precision] = [detector.detect(one.pictures) for one in sets.values()]
            print(f"answered: {member} {precision}", flush=True)
    return found


def precisions(network: str) -> list[Precision]:
    """What this CPU can compute of one network."""
    return [one for one in PRECISIONS[network] if one in supported()]


def fused(
    found: dict[tuple[str, str], list[list[Boxes]]], precision: Precision
) -> list[list[Boxes]]:
    """The heavy pass's boxes for each set, from its members' answers."""
    choices = policy.load("heavy")
    plain = "bf16" if precision.endswith("bf16") else "f32"
    parts = [
        found[member, precision if member.startswith("nanodet") else plain]
        for member in choices.members
    ]
    return [
        [fuse(boxes, choices.fusion_iou) for boxes in zip(*one_set, strict=True)]
        for one_set in zip(*parts, strict=True)
    ]


def accuracy(sets: dict[str, Photographs], answers: list[list[Boxes]]) -> dict[str, Any]:
    """The row's accuracy figures: those of coco128 plain, both sets below `sets`."""
    scores: dict[str, Score] = {
        name: score(match(one.labelled, [best(boxes) for boxes in found]))
        for (name, one), found in zip(sets.items(), answers, strict=True)
    }
    return {
        "map": round(scores[SETS[0]].map, 4),
        "ap50": round(scores[SETS[0]].ap50, 4),
        "sets": {
            name: {
                "map": round(one.map, 4),
                "map_95": [round(one.map_low, 4), round(one.map_high, 4)],
                "ap50": round(one.ap50, 4),
            }
            for name, one in scores.items()
        },
    }


def best(boxes: Boxes) -> Boxes:
    """The hundred best boxes, as COCO counts them."""
    return boxes.take(np.arange(min(len(boxes), 100)))


def in_turn(runs: dict[Any, Callable[[], object]], n_rounds: int) -> dict[Any, float]:
    """Median milliseconds of each run; every round does all of them, the first two uncounted."""
    taken: dict[Any, list[float]] = {key: [] for key in runs}
    for i in range(n_rounds + 2):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            if i >= 2:
                taken[key].append((time.perf_counter() - start) * 1e3)
    return {key: round(statistics.median(ms), 3) for key, ms in taken.items()}


def times(
    make: Callable[[Precision, int], Detector],
    row_precisions: Sequence[Precision],
    picture: Picture,
    n_rounds: int,
) -> dict[tuple[Precision, int], float]:
    """Milliseconds by precision and threads: of the network, or of the heavy pass end to end."""
    runs: dict[Any, Callable[[], object]] = {}
    for precision in row_precisions:
        for threads in THREADS:
            detector = make(precision, threads)
            if len(detector.members) > 1:
                runs[precision, threads] = partial(detector.detect, [picture])
            else:
                pixels = detector.members[0].prepare(picture).bgr
                runs[precision, threads] = partial(infer, detector.members[0].network, pixels)
    return in_turn(runs, n_rounds)


def infer(network: Runtime, pixels: ByteArray) -> None:
    """One inference, its outputs left where they are."""
    network.read(network.submit(pixels), lambda _: None)


def around_the_network(detector: Detector, pictures: Sequence[Picture]) -> dict[str, float]:
    """Median milliseconds a picture of what is not the network: preparing, decoding, fusing."""
    prepare_ms, decode_ms = [], []
    for picture in pictures:
        prepare_s = decode_s = 0.0
        parts = []
        for member in detector.members:
            start = time.perf_counter()
            prepared = member.prepare(picture)
            prepare_s += time.perf_counter() - start
            token = member.network.submit(prepared.bgr)
            seconds, boxes = member.network.read(token, partial(timed_decode, member, prepared))
            decode_s += seconds
            parts.append(boxes)
        if len(parts) > 1:
            start = time.perf_counter()
            fuse(parts, detector.choices.fusion_iou)
            decode_s += time.perf_counter() - start
        prepare_ms.append(prepare_s * 1e3)
        decode_ms.append(decode_s * 1e3)
    return {
        "prepare_ms": round(statistics.median(prepare_ms), 3),
        "decode_ms": round(statistics.median(decode_ms), 3),
    }


def timed_decode(
    member: DetectorMember, prepared: NetworkInput, outputs: Sequence[FloatArray]
) -> tuple[float, Boxes]:
    """Seconds that decoding took, and its boxes."""
    start = time.perf_counter()
    boxes = member.decode(outputs, prepared)
    return time.perf_counter() - start, boxes


def rows(sets: dict[str, Photographs], n_rounds: int) -> list[dict[str, Any]]:
    """One row for each model and precision."""
    picture = sets[SETS[0]].pictures[0]
    found = answers_by_member(sets)
    table = []
    members = policy.load("heavy").members
    for name in (*members, "heavy"):
        is_heavy = name == "heavy"
        chosen = precisions("nanodet" if is_heavy else name.split("-")[0])
        make = heavy if is_heavy else partial(single, name)
        ms = times(make, chosen, picture, n_rounds)
        for precision in chosen:
            answers = fused(found, precision) if is_heavy else found[name, precision]
            row = {"name": name, "precision": precision} | accuracy(sets, answers)
            row |= {f"ms_{t}t": ms[precision, t] for t in THREADS}
            row |= around_the_network(make(precision, 1), sets[SETS[1]].pictures)
            table.append(row)
            print(json.dumps(row), flush=True)
    return table


def conditions(sets: dict[str, Photographs], n_rounds: int) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "precisions": list(supported()),
        "openvino": ov.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "pycocotools": version("pycocotools"),
        "n_photographs": {name: len(one.pictures) for name, one in sets.items()},
        "n_rounds": n_rounds,
        "load_average": round(os.getloadavg()[0], 2),
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    sets = {}
    for name in SETS:
        labelled = read_labelled(given.data, name, given.pictures)
        sets[name] = Photographs(labelled, tuple(read_photograph(f) for f in labelled.files))
    result: dict[str, Any] = {"conditions": conditions(sets, given.rounds)}
    print(json.dumps(result), flush=True)
    result["models"] = rows(sets, given.rounds)
    result["conditions"]["load_average_at_end"] = round(os.getloadavg()[0], 2)
    return result


BENCHMARK = Benchmark(
    name="detectors",
    measure=whole,
    needs=("clips", "bench"),
    options={"rounds": Option(20, 1), "pictures": Option(10**9, 4, "most of each set")},
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
