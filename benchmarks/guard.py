"""How long a specialised model that fits its camera no more is served, and what the guard takes.

    python -m benchmarks.guard --data FOLDER [--models REGISTRY] [--quick] [--write]

A clip is a camera: on its first 60 % a least score for each class is tuned by the word of the heavy
pass, and its last 35 %, to and fro, is what the camera sees from then on. After --day seconds the
scene changes for --changed seconds: night (a fifth of the light, and noise), nudged by 5 % of the
width, zoomed out to .8, turned by a quarter, upside down; `none` changes nothing. Told are seconds
of media time until the alarm (none: it did not ring), audits until then and how far they had the
specialised model behind, and F1 against the heavy pass, at IoU .5, of what was served until then,
beside the general model on the same frames. CPU seconds are of detect, audits included, with the
guard and without. --models: a registry with models of the clips' names (`car-detection`),
as `framegate train` made them, in place of the tuned ones; then only those clips are looked at.

The last line is the whole result as one JSON object. Takes some eight minutes.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.clips import rate
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.cli.tune import HEAVY
from framegate.models import coco, matching
from framegate.models.boxes import Boxes
from framegate.models.errors import UnknownModel
from framegate.models.learning import judgement, teacher, thresholds
from framegate.models.learning.examples import EARLIER, GAP
from framegate.models.picture import from_bgr
from framegate.models.preprocess import to_bgr
from framegate.models.registry.general import general_folder
from framegate.models.registry.model_folder import FootageSpan, Learned, Manifest, ModelFolder
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.results import GuardNews
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.alone import context_alone
from framegate.pipeline.heavy.places import open_asks
from framegate.stages.commands.quantise import draws, frames_at
from framegate.stages.commands.teaching import Teacher
from framegate.stages.commands.tune import general, raw_detector
from framegate.stages.detect import Detect, DetectOptions
from framegate.stages.detect.options import CacheOptions, GuardOptions, ModelOptions
from framegate.stages.detect.state import DetectState
from framegate.stages.detections import Detections
from framegate.stages.footage import FootageFrame
from framegate.stages.footage.choose import evenly

# Those that the package may be shaped by.
CLIPS: Final = ("bottle-detection", "car-detection", "one-by-one-person-detection")
CHANGES: Final = ("none", "night", "nudged", "zoomed", "turned", "upside_down")
FPS: Final = 3
LIGHT, NOISE = 0.2, 4.0  # of a night: share of levels, and levels of noise
NUDGED, ZOOMED = 0.05, 0.8
N_JUDGED: Final = 60  # of those until the alarm; of eight one object moved it by .3
N_CLASSES: Final = len(coco.LABELS)

Bgr = npt.NDArray[np.uint8]


def changed(bgr: Bgr, change: str, number: int) -> Bgr:
    """The picture as it is seen after a change; its noise hangs on the number."""
    height, width = bgr.shape[:2]
    middle = width / 2, height / 2
    match change:
        case "night":
            noise = np.random.default_rng(number).normal(0, NOISE, bgr.shape)
            return np.clip(bgr * LIGHT + noise, 0, 255).astype(np.uint8)
        case "nudged":
            return _moved(bgr, np.array([[1, 0, NUDGED * width], [0, 1, 0]]), cv2.BORDER_REPLICATE)
        case "zoomed":
            return _moved(bgr, cv2.getRotationMatrix2D(middle, 0, ZOOMED), cv2.BORDER_REPLICATE)
        case "turned":
            return _moved(
                bgr, cv2.getRotationMatrix2D(middle, 90, height / width), cv2.BORDER_CONSTANT
            )
        case "upside_down":
            return np.ascontiguousarray(bgr[::-1, ::-1])
    return bgr


def _moved(bgr: Bgr, matrix: npt.NDArray[Any], border: int) -> Bgr:
    height, width = bgr.shape[:2]
    moved = cv2.warpAffine(bgr, matrix, (width, height), borderMode=border)
    return moved.astype(np.uint8, copy=False)


class Camera:
    """What a clip shows after what was learned from."""

    def __init__(self, path: Path, n_learned: int) -> None:
        [whole] = draws({"clip": str(path)}, 10**9)
        count = len(whole.earlier) + len(whole.later)
        numbers = evenly(range(int(count * EARLIER)), n_learned)
        self.learned = [*zip(numbers, frames_at(str(path), numbers), strict=True)]
        first = self.learned[0][1]
        self.size = first.width // 2 * 2, first.height // 2 * 2
        later = range(int(count * (EARLIER + GAP)), count)
        seen = evenly(later, round(len(later) / rate(path) * FPS))  # at its own pace
        self._seen = [to_bgr(one, self.size) for one in frames_at(str(path), seen)]

    def bgr(self, number: int) -> Bgr:
        """Its picture of this number, to and fro."""
        at = number % (2 * len(self._seen) - 2)
        return self._seen[min(at, 2 * len(self._seen) - 2 - at)]


def tuned(camera: Camera, name: str, told: Teacher, store: Registry) -> Manifest:
    """Put the light detector with least scores for this camera into a registry."""
    light, frames = raw_detector(general().side), [one for _, one in camera.learned]
    raw = light.detect(frames)
    said = [told.of(FootageFrame(one, name, float(n))) for n, one in camera.learned]
    kept = [one.class_id for one in teacher.seen(said)]
    known = [teacher.chosen(one, kept, {}) for one in said]
    sure, unsure = [one.sure for one in known], [one.unsure for one in known]
    found = thresholds.tuned(raw, sure, unsure, general().nms_iou)
    least = {coco.LABELS[class_id]: score for class_id, score in found.items()}
    spans = (FootageSpan(name, 0.0, float(camera.learned[-1][0])),)
    learned = Learned("light", told.name, len(frames), sum(map(len, sure)), spans)
    with tempfile.TemporaryDirectory(prefix="framegate-guard-") as path:
        folder = general_folder(Path(path), name, "1")
        made = replace(
            folder.manifest, min_scores=least, min_score=min(least.values()), learned=learned
        )
        return store.put(ModelFolder(folder.path, made)).manifest


class Served:
    """A source that detect looks at, by a model of a registry; "": by the general one."""

    def __init__(
        self,
        camera: Camera,
        folder: Path,
        registry: Path,
        model: str,
        every_s: float,
        audit_s: float,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self._camera, self.cpu_s = camera, 0.0
        self._form = Form(*camera.size)
        options = DetectOptions(
            classes=classes,
            guard=GuardOptions(every_s=every_s, audit_s=audit_s),
            cache=CacheOptions(exact=False),
            models=ModelOptions(registry=str(registry)),
        )
        context = context_alone(
            self._pixels,
            lambda: 0.0,
            folder,
            "window",
            model=lambda _: model,
            asks=lambda place, patience_s: open_asks(place, patience_s, ""),
        )
        self._stage, self._state = Detect(options, context), DetectState()
        self._stage.models.of("a").warm_up(*camera.size)
        self._picture: Bgr = camera.bgr(0)

    @contextmanager
    def _pixels(self, _: Item) -> Iterator[memoryview]:
        yield memoryview(cv2.cvtColor(self._picture, cv2.COLOR_BGR2YUV_I420).tobytes())

    def see(self, number: int, change: str) -> Detections:
        """Have it look at the next frame."""
        self._picture = changed(self._camera.bgr(number), change, number)
        record = Record(1, number / FPS, 0.0, 0.0, 0, self._form)
        began = time.process_time()
        while True:
            [said], after = self._stage.process(
                [Item("a", Position(1, number), record)], {"a": self._state}
            )
            if isinstance(said, Detections):
                break
            assert self._stage.asks is not None
            select.select([self._stage.asks.fileno()], [], [])
            self._stage.asks.hear()
        self.cpu_s += time.process_time() - began
        self._state = after["a"]
        return said

    def close(self) -> None:
        """End the questions."""
        if self._stage.asks is not None:
            self._stage.asks.close()


def f1_of(
    said: Mapping[int, Detections], camera: Camera, change: str, told: Teacher, kept: Sequence[int]
) -> float | None:
    """F1 of what was said of frames, in the classes that are looked for; None: of no frame."""
    numbers = evenly(sorted(said), N_JUDGED)
    if not numbers:
        return None
    ours, sure, unsure = [], [], []
    for number in numbers:
        picture = from_bgr(changed(camera.bgr(number), change, number))
        there = teacher.chosen(told.of(FootageFrame(picture, "a", float(number))), kept, {})
        sure.append(there.sure)
        unsure.append(there.unsure)
        boxes = as_boxes(said[number])
        ours.append(boxes.take(np.isin(boxes.class_ids, list(kept))))
    counts = judgement.counted(ours, sure, unsure, N_CLASSES)
    return round(float(matching.f1(counts.sum(axis=1))), 3)


def as_boxes(said: Detections) -> Boxes:
    """What results have, with COCO's class ids."""
    found = [one for one in said.objects if one.label in coco.LABELS]
    return Boxes(
        np.array([one.box for one in found], np.float32).reshape(-1, 4),
        np.array([one.score for one in found], np.float32),
        np.array([coco.LABELS.index(one.label) for one in found], np.int32),
    )


def watched(
    camera: Camera, manifest: Manifest, store: Path, told: Teacher, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each change of one clip."""
    kept = [coco.LABELS.index(label) for label in manifest.usual]
    day, n = round(given.day * FPS), round((given.day + given.changed) * FPS)
    rows = []
    for change in given.changes:
        with tempfile.TemporaryDirectory(prefix="framegate-guard-") as path:
            # In turn: all meet the same load.
            # The general model looks for what the tuned one answers with, as it does beside it.
            ways = {
                "guarded": (manifest.ref, given.every, given.audit, None),
                "alone": (manifest.ref, 0.0, 0.0, None),
                "general": ("", 0.0, 0.0, (*coco.CAMERA, *set(manifest.usual) - {*coco.CAMERA})),
            }
            served = {
                way: Served(camera, Path(path) / way, store, *words) for way, words in ways.items()
            }
            said: dict[str, list[Detections]] = {way: [] for way in served}
            for number in range(n):
                now = change if number >= day else "none"
                for way, one in served.items():
                    said[way].append(one.see(number, now))
            for one in served.values():
                one.close()
        rang = [one.guard is not None and one.guard.alarm for one in said["guarded"]]
        at = rang.index(True) if True in rang else None
        until = range(day, n if at is None else max(at, day) + 1)
        last = said["guarded"][-1 if at is None else at - 1].guard or GuardNews()
        of = {way: {i: all_[i] for i in until} for way, all_ in said.items()}
        rows.append(
            {
                "change": change,
                "alarm_s": None if at is None else round((at - day) / FPS, 1),
                "looks": last.looks,
                "apart": last.apart,
                "audits": last.audits + (at is not None),
                "behind": last.behind,
                "f1_served": f1_of(of["guarded"], camera, change, told, kept),
                "f1_general": f1_of(of["general"], camera, change, told, kept),
                **{f"cpu_{way}_s": round(one.cpu_s, 2) for way, one in served.items()},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    clips = {}
    with (
        tempfile.TemporaryDirectory(prefix="framegate-guard-") as path,
        Teacher(HEAVY, Registry(), threads=1, answers=Path(path) / "answers") as told,
    ):
        for name in given.clips:
            camera = Camera(given.data / "clips" / f"{name}.mp4", given.frames)
            store = Path(given.models or Path(path) / "registry")
            if given.models is None:
                manifest = tuned(camera, name, told, Registry(store))
            else:
                try:
                    manifest = Registry(store).find(name).manifest
                except UnknownModel:
                    continue
            rows = watched(camera, manifest, store, told, given)
            clips[name] = {
                "model": manifest.result_name,
                "least": manifest.min_scores,
                "rows": rows,
            }
    names = "day", "changed", "every", "audit", "frames"
    about = {name: getattr(given, name) for name in names}
    return {"clips": clips, "conditions": conditions(("openvino", "numpy"), fps=FPS, **about)}


WORSE: Final = 0.05  # F1 below the general model's from which on a scene counts as served worse
MOST_AUDITS: Final = 27  # with something to see, of a model that is behind by half


def bars(result: BenchmarkResult) -> list[Bar]:
    """What the guard is for: nothing worse than the general model is served for long."""
    rows = [row for clip in result["clips"].values() for row in clip["rows"]]
    worse = [
        row
        for row in rows
        if row["change"] != "none" and row["f1_served"] < row["f1_general"] - WORSE
    ]
    silent = sum(row["alarm_s"] is None for row in worse)
    most = max((row["audits"] for row in worse if row["alarm_s"] is not None), default=0)
    told = "changed scenes served worse than by the general model"
    return [
        Bar(f"{told}, without an alarm", silent, "<=", 0),
        Bar(f"{told}: audits until the alarm, at most", most, "<=", MOST_AUDITS),
    ]


BENCHMARK = Benchmark(
    name="guard",
    measure=whole,
    needs=("clips",),
    bars=bars,
    keyed=("clips", "least"),
    options={
        "clips": Option(CLIPS, CLIPS[:1]),
        "changes": Option(CHANGES, CHANGES[-1:]),
        "frames": Option(40, 6, "pictures that are learned from"),
        "day": Option(24.0, 2.0, "seconds before the change"),
        "changed": Option(150.0, 4.0, "seconds after it"),
        "every": Option(20.0, None, "as [guard] every_s"),
        "audit": Option(20.0, None, "as [guard] audit_s"),
        "models": Option(None, None, "a registry with models of the clips' names"),
    },
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
