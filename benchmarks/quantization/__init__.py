"""Measure what 8 bits and bf16 gain and cost (needs the extras `bench` and `train`).

    python -m benchmarks.quantization --data FOLDER [--rounds N] [--quick] [--write]

NanoDet-Plus at three sizes as shipped, and an ONNX file with the conventions of another
project (`foreign_networks`), quantised as `framegate models quantise` does it. Each at every
precision that this CPU computes natively: milliseconds at one and two threads, all of a network's
variants in turn, and the median over rounds of how many times as fast as float32 each was; bytes of
weights; memory of a process that loads it alone; mAP and AP50 with the loss against float32 from a
paired bootstrap over pictures. Everything INT8 was calibrated on images/coco128, so the loss is
judged on images/coco-val2017-a. The last line is the whole result as one JSON object. Takes some
eight minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.harness import report
from benchmarks.harness.scoring import LabelledPhotographs, Matches, match, read_labelled
from benchmarks.quantization.network_memory import in_a_process_of_its_own
from benchmarks.quantization.resampled_precision import ap50, mean_precision, of_difference
from benchmarks.quantization.subjects import Subject, nanodet_plus
from framegate.models.detector.network import Precision, config, core, supported
from framegate.models.picture import Picture, read_photograph
from framegate.models.quantisation.int8 import weight_bytes

CALIBRATED_ON, JUDGED_ON = "coco128", "coco-val2017-a"
SIDES = (320, 416, 640)
THREADS = (1, 2)
N_RESAMPLES = 1000
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
FASTER, FASTER_WITH_BF16 = 2.3, 2.7
SMALLER, MOST_LOSS, WORST_LOSS = 0.26, 0.006, 0.02


@dataclass(frozen=True, slots=True)
class Photographs:
    """One labelled set, decoded."""

    labelled: LabelledPhotographs
    pictures: tuple[Picture, ...]


def read_set(data: Path, name: str, most: int | None = None) -> Photographs:
    """The set `name`, or its first `most` pictures."""
    labelled = read_labelled(data, name, most)
    return Photographs(labelled, tuple(read_photograph(file) for file in labelled.files))


def timed(subject: Subject, n_rounds: int) -> dict[tuple[Precision, int], list[float]]:
    """Milliseconds of each round's inference by precision and threads.

    A round runs all of them once; who begins changes from round to round. Two rounds are not kept.
    """
    width, height = subject.size
    pixels = np.full((1, height, width, 3), 114, np.uint8)
    runs: list[tuple[tuple[Precision, int], Any]] = []
    for precision in supported():
        for threads in THREADS:
            model = subject.model(precision)
            model.reshape([1, height, width, 3])
            compiled = core().compile_model(model, "CPU", config(precision, threads))
            runs.append(((precision, threads), compiled.create_infer_request()))
    taken: dict[tuple[Precision, int], list[float]] = {key: [] for key, _ in runs}
    for i in range(n_rounds + 2):
        first = i % len(runs)
        for key, request in runs[first:] + runs[:first]:
            start = time.perf_counter()
            request.infer([pixels])
            if i >= 2:
                taken[key].append((time.perf_counter() - start) * 1e3)
    return taken


def weights(subject: Subject, precision: Precision) -> tuple[int, float]:
    """Bytes of the file's numbers, and their share of the same network's in float32."""
    stored = subject.model("f32")
    floats = [n for n in stored.get_ops() if n.get_type_name() == "Constant"]
    n_weights = sum(n.get_data().size for n in floats if n.get_data().dtype.kind == "f")
    n_bytes = weight_bytes(subject.model(precision))
    return n_bytes, n_bytes / (4 * n_weights)


def figures(
    matches: Sequence[Matches], exact: Sequence[Matches], n_resamples: int
) -> dict[str, Any]:
    """mAP, AP50, and the mAP that is lost against `exact`, with its paired 95 % interval."""
    n = len(matches[0].n_labels)
    whole = np.ones((1, n), np.int64)
    ours = mean_precision(matches)
    said = {"map": ours(whole), "ap50": ap50(matches)(whole)}
    row: dict[str, Any] = {name: round(float(one[0]), 4) for name, one in said.items()}
    if matches is exact:
        return row
    loss = of_difference(mean_precision(exact), ours, n, n_resamples, centred=True)
    ends = [round(end, 4) for end in (loss.low, loss.high)]
    return row | {"loss": round(loss.middle, 4), "loss_95": ends}


def rows(
    subject: Subject, sets: dict[str, Photographs], n_rounds: int, n_resamples: int
) -> list[dict[str, Any]]:
    """One row for each precision of this CPU."""
    ms = timed(subject, n_rounds)
    exact: dict[str, list[Matches]] = {}
    table = []
    for precision in supported():
        n_bytes, share = weights(subject, precision)
        row: dict[str, Any] = {"precision": precision, "weight_bytes": n_bytes}
        row |= {"weight_ratio": round(share, 4)}
        for t in THREADS:
            row[f"ms_{t}t"] = round(statistics.median(ms[precision, t]), 3)
            gain = report.median_of_ratios(ms["f32", t], ms[precision, t])
            row[f"speedup_{t}t"] = round(gain, 3)
        file = subject.file(precision)
        row["memory"] = in_a_process_of_its_own(file, subject.size, precision, subject.outputs)
        for name, one in sets.items():
            found = match(one.labelled, subject.detect(precision, one.pictures))
            row[name] = figures(found, exact.setdefault(name, found), n_resamples)
        table.append(row)
        print(json.dumps({"name": subject.name} | row), flush=True)
    return table


def summary(subject: Subject, table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The network's entry in the result: its fastest INT8 against float32, on the judging set."""
    exact = table[0]
    small = max((r for r in table if r["precision"].startswith("int8")), key=_speed)
    judged = small[JUDGED_ON]
    return {
        "name": subject.name,
        "size": list(subject.size),
        "precision": small["precision"],
        "speedup": small["speedup_1t"],
        "speedup_2t": small["speedup_2t"],
        "map_f32": exact[JUDGED_ON]["map"],
        "map_int8": judged["map"],
        "loss": judged["loss"],
        "loss_low": judged["loss_95"][0],
        "loss_high": judged["loss_95"][1],
        "weight_ratio": small["weight_ratio"],
        "rows": list(table),
    }


def _speed(row: dict[str, Any]) -> float:
    return float(row["speedup_1t"])


def has_vnni(flags: Sequence[str]) -> bool:
    """Return whether the CPU multiplies 8 bits at once."""
    return any("vnni" in flag or flag == "amx_int8" for flag in flags)


def least_speedup(flags: Sequence[str]) -> float:
    """What INT8 should gain on a CPU that can show it."""
    return FASTER_WITH_BF16 if any("bf16" in flag for flag in flags) else FASTER


def reached(light: dict[str, Any], flags: Sequence[str]) -> dict[str, bool | None]:
    """What NanoDet-Plus 416 has to reach; None where this CPU cannot show it."""
    return {
        "fast": light["speedup"] >= least_speedup(flags) if has_vnni(flags) else None,
        "small": light["weight_ratio"] <= SMALLER,
        "loss_is_small": light["loss"] <= MOST_LOSS,
        "loss_is_bounded": light["loss_high"] < WORST_LOSS,
    }


def cpu_flags() -> list[str]:
    """Those of FLAGS that this CPU has."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    have = next(
        (line.split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return [flag for flag in FLAGS if flag in have]


def whole(given: argparse.Namespace) -> report.BenchmarkResult:
    """The whole result."""
    from benchmarks.quantization import foreign_networks  # torch is not in the base install

    cv2.setNumThreads(1)
    flags = cpu_flags()
    said = report.conditions(
        ("openvino", "nncf", "torch", "onnx", "numpy", "pycocotools"),
        flags=flags,
        precisions=list(supported()),
        calibrated_on=CALIBRATED_ON,
        judged_on=JUDGED_ON,
        rounds=given.rounds,
        resamples=given.resamples,
    )
    print(json.dumps(said), flush=True)
    sets = {name: read_set(given.data, name, given.pictures) for name in (JUDGED_ON, CALIBRATED_ON)}
    result: dict[str, Any] = {"conditions": said, "models": [], "choices": {}}
    with tempfile.TemporaryDirectory(prefix="framegate-quantization-") as folder:
        subjects = [nanodet_plus(side) for side in given.sides]
        foreign = foreign_networks.YOLO_STYLE
        calibrating = sets[CALIBRATED_ON].pictures
        made, choice = foreign_networks.subject(foreign, calibrating, Path(folder))
        subjects.append(made)
        result["choices"][foreign.name] = choice
        for one in subjects:
            table = rows(one, sets, given.rounds, given.resamples)
            result["models"].append(summary(one, table))
    light = _light(result)
    result["bars"] = reached(light, flags)
    result["conditions"]["load_average_at_end"] = round(os.getloadavg()[0], 2)
    return result


def _light(result: report.BenchmarkResult) -> dict[str, Any]:
    """The shipped network at its usual size, which comes after a smaller one."""
    own = [one for one in result["models"] if one["name"].startswith("nanodet")]
    return next((one for one in own if one["name"].endswith("-416")), own[0])


def bars(result: report.BenchmarkResult) -> list[report.Bar]:
    """What NanoDet-Plus 416 has to reach; its speed only where the CPU computes INT8 natively."""
    light = _light(result)
    flags = result["conditions"]["flags"]
    fast = light["speedup"] if has_vnni(flags) else None
    return [
        report.Bar("INT8: times as fast as f32", fast, ">=", least_speedup(flags)),
        report.Bar("INT8: weights, by those of f32", light["weight_ratio"], "<=", SMALLER),
        report.Bar("INT8: mAP lost", light["loss"], "<=", MOST_LOSS),
        report.Bar("INT8: mAP lost, upper end", light["loss_high"], "<=", WORST_LOSS),
    ]


BENCHMARK = report.Benchmark(
    name="quantization",
    measure=whole,
    needs=("clips", "bench", "train"),
    options={
        "rounds": report.Option(25, 1),
        "resamples": report.Option(N_RESAMPLES, 10),
        "pictures": report.Option(10**9, 8, "most of each set"),
        "sides": report.Option(SIDES, (416,)),
    },
    bars=bars,
    keyed=("choices",),
)
