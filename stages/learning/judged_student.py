"""A trained network as a model of the registry, judged on later footage.

Figures are those of OpenVINO's network at the precision that is fastest here, not torch's. Its
least scores are chosen in f32.

The judgement compares it with the light detector as it ships: it must be better. It also compares
it with the light detector tuned to the same pictures: it must not be much worse.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import openvino as ov

from framegate.models import coco, matching
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy, precision_trial
from framegate.models.detector.network import Precision, cpu_model, read, supported
from framegate.models.detector.precision_trial import TrialSetting
from framegate.models.learning import judgement, thresholds, tuning
from framegate.models.learning.judgement import ClassCounts, ModelVerdict
from framegate.models.learning.tuning import Look, TunedSide, Tuning
from framegate.models.picture import Picture
from framegate.models.quantisation.int8 import halve_exact_constants, quantised
from framegate.models.registry.manifest import NETWORK, NETWORK_INT8, InputSpec, Manifest
from framegate.models.registry.model_folder import ModelFolder, sha256_of
from framegate.models.registry.open import BF16_AGREEMENT, open_model, tried_of
from framegate.models.training.export_ir import OUTPUT, export
from framegate.models.training.lessons import Lessons, plain
from framegate.models.training.nanodet_plus import NanoDetPlus
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.system.machine import user_cache
from framegate.stages.footage.footage import Footage, evenly
from framegate.stages.learning.camera_tuning import MOST_RAW, general

_N_RANGES: Final = 60  # pictures that the ranges of 8 bits are taken from
_INT8_COSTS: Final = 0.01  # of F1, at most
_TIMED_S: Final = 1.0
_OWN: Final = 0  # names the network among the sizes of a Look

PictureKey = tuple[str, float]  # source and moment of a picture


def as_model(
    path: Path, name: str, net: NanoDetPlus, lessons: Lessons, meter: OnProgress
) -> ModelFolder:
    """Write a trained network in float and in 8 bits as a model folder without thresholds.

    path     an empty folder to write into
    net      in evaluation mode, with the lessons' classes; see `student`
    lessons  the earlier pictures give the ranges of 8 bits
    """
    meter("making the network")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA
    exact = export(net)
    ov.save_model(exact, path / NETWORK, compress_to_fp16=False)
    shown = evenly(lessons.earlier, _N_RANGES)
    inputs = [plain(one, lessons.size).bgr[None] for one in shown]
    small = quantised(exact, inputs, accurate_bias=True)
    ov.save_model(halve_exact_constants(small), path / NETWORK_INT8, compress_to_fp16=False)
    (width, height), origin = lessons.size, read()["nanodet-plus.bin"]
    manifest = Manifest(
        name=name,
        version="1",
        task="detect",
        classes=lessons.labels,
        input=InputSpec(width, height, "corner", 0, "bgr"),
        precision="f32",
        format="nanodet_joined",
        options={"scores": "logits"},
        outputs=(OUTPUT,),
        min_score=float(thresholds.GRID[0]),
        nms_iou=1.0,
        max_boxes=MOST_RAW,
        files={file.name: sha256_of(file) for file in sorted(path.iterdir())},
        metrics={},
        licence=origin.licence,
        provenance=f"narrowed and trained on pictures of its camera; nanodet-plus, {origin.origin}",
    )
    return ModelFolder(path, manifest)


@dataclass(frozen=True, slots=True)
class JudgedStudent:
    """The outcome of a network.

    folder   as it is to serve: without 8 bits if these cost too much; its manifest has metrics
    side     its least scores, and its output on the later pictures, as it serves here
    verdict  in comparison with the light detector as it ships, and tuned to the same pictures
    ms       per picture: of the light detector, of the network
    raw      all its boxes in each picture, as `Look` has them
    """

    folder: ModelFolder
    side: TunedSide
    verdict: ModelVerdict
    ms: tuple[float, float]
    raw: dict[PictureKey, Boxes]


def judged(
    folder: ModelFolder, footage: Footage, found: Tuning, meter: OnProgress
) -> JudgedStudent:
    """Run the network that is to serve on the footage, and judge it.

    folder  of `as_model`
    found   the light detector tuned to the same footage, by the same teacher
    """
    kinds: list[Precision] = ["f32", "int8", *(("bf16",) if "bf16" in supported() else ())]
    networks = {kind: open_model(folder, kind, 1) for kind in kinds}
    raw: dict[Precision, dict[PictureKey, Boxes]] = {kind: {} for kind in kinds}
    picture = None
    for number, frame in enumerate(footage):
        for kind, network in networks.items():
            raw[kind][frame.source, frame.moment_s] = network.detect([frame.picture])[0]
        picture = picture or frame.picture
        meter("pictures that the network looks at", number + 1, len(footage))
    assert picture is not None
    sides = {
        kind: (_looked(found.earlier, raw[kind]), _looked(found.later, raw[kind])) for kind in kinds
    }
    side = tuning.tuned_side(_OWN, *sides["f32"], general().nms_iou, len(coco.LABELS))
    metrics: dict[str, Any] = {"f1_earlier": round(side.f1, 4)}
    if "bf16" in kinds:
        ours, theirs = (_shown(sides[kind][0], side.least) for kind in ("bf16", "f32"))
        metrics[BF16_AGREEMENT] = round(matching.agreement(ours, theirs).middle, 4)
    of_int8 = float(matching.f1(_counts(sides["int8"][0], side.least).sum(axis=1)))
    metrics["f1_earlier_int8"] = round(of_int8, 4)
    files = dict(folder.manifest.files)
    if of_int8 < side.f1 - _INT8_COSTS:
        files = {name: digest for name, digest in files.items() if not name.startswith("int8.")}
    folder = ModelFolder(folder.path, replace(folder.manifest, files=files, metrics=metrics))
    choice = precision_trial.run(tried=tried_of(folder))
    served: Precision = "int8" if choice.precision.startswith("int8") else "f32"
    if served == "int8":
        side = replace(side, shown=tuple(_shown(sides["int8"][1], side.least)))
    verdict = judgement.judge(
        side.shown,
        found.general,
        found.said,
        found.sources,
        coco.LABELS,
        tuned=found.sides[0].shown,
    )
    folder = _with_scores(folder, side.least)
    ms = _times(folder, choice.precision, picture)
    metrics |= verdict.metrics | {"precision": choice.precision, "cpu": cpu_model()}
    metrics |= {"ms": round(ms[1], 3), "light_ms": round(ms[0], 3)}
    folder = ModelFolder(folder.path, replace(folder.manifest, metrics=metrics))
    return JudgedStudent(folder, side, verdict, ms, raw[served])


def _with_scores(folder: ModelFolder, found: Mapping[int, float]) -> ModelFolder:
    """Return the folder with these least scores, one box per object, and the usual maximum."""
    least = {coco.LABELS[class_id]: score for class_id, score in found.items()}
    manifest = replace(
        folder.manifest,
        min_score=min(least.values(), default=float(thresholds.GRID[-1])),
        min_scores=least,
        nms_iou=general().nms_iou,
        max_boxes=policy.load("light").max_boxes,
    )
    return ModelFolder(folder.path, manifest)


def _looked(looks: Sequence[Look], raw: Mapping[PictureKey, Boxes]) -> list[Look]:
    return [replace(look, raw={_OWN: raw[look.source, look.moment_s]}) for look in looks]


def _shown(looks: Sequence[Look], least: Mapping[int, float]) -> list[Boxes]:
    return [thresholds.shown(look.raw[_OWN], least, general().nms_iou) for look in looks]


def _counts(looks: Sequence[Look], least: Mapping[int, float]) -> ClassCounts:
    shown = [
        look.said.judgeable(boxes) for look, boxes in zip(looks, _shown(looks, least), strict=True)
    ]
    sure, unsure = [look.said.sure for look in looks], [look.said.unsure for look in looks]
    return judgement.counted(shown, sure, unsure, len(coco.LABELS))


def _times(folder: ModelFolder, precision: Precision, picture: Picture) -> tuple[float, float]:
    """Return CPU ms per picture with one thread: of the light detector, of this network."""
    light = precision_trial.run(user_cache() / "precision.json")
    both = detector.load("light", light.precision, 1), open_model(folder, precision, 1)
    runs: dict[TrialSetting, Callable[[], object]] = {
        (precision, i): partial(one.detect, [picture]) for i, one in enumerate(both)
    }
    taken = precision_trial.measure(runs, _TIMED_S, clock=time.process_time)
    return taken[precision, 0], taken[precision, 1]
