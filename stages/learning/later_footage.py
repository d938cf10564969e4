"""Footage that is newer than a model: how much there is, and how the model does on it.

Pictures that the model may have learned from judge nothing. The general model is tuned to them, so
that the remaining difference is due to the learning.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, precision_trial
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import cpu_model
from framegate.models.errors import UnknownModel
from framegate.models.learning import judgement, teacher, thresholds
from framegate.models.learning.judgement import ModelVerdict
from framegate.models.learning.teacher import EARLIER, GAP, Said
from framegate.models.picture import Picture
from framegate.models.quantisation.agreement import Interval
from framegate.models.registry.model_folder import FootageSpan, Learned, Manifest, ModelFolder
from framegate.models.registry.open import labels_of, open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.system.machine import user_cache
from framegate.stages.footage.footage import FootageFrame, read_footage
from framegate.stages.footage.kept import FOLDER, kept_frames
from framegate.stages.learning.camera_tuning import general, raw_detector
from framegate.stages.learning.choices import HEAVY, LEAST_NEW, TUNE_FRAMES, WithInterval
from framegate.stages.learning.teaching import Teacher
from framegate.stages.model_faults import model_faults

_TIMED_S: Final = 1.0
_LEAST_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class JudgedClass:
    """A class in the judging pictures: objects, and F1 of the general model and of this one."""

    label: str
    there: int
    general: float
    f1: float


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome of a judgement.

    model       NAME@VERSION and digest; general  the model that it was compared with
    earlier     pictures that it may have learned from; they judge nothing
    frames, boxes  of the judgement: pictures, and objects of the teacher in them
    f1, general_f1, difference  with 95 % intervals
    ms, general_ms  per picture on this machine
    forgotten   class -> objects of the teacher of classes that the model does not detect
    refused     why it may not serve; "" if it may
    """

    model: str
    general: str
    earlier: int
    frames: int
    boxes: int
    f1: WithInterval
    general_f1: WithInterval
    difference: WithInterval
    classes: tuple[JudgedClass, ...]
    ms: float
    general_ms: float
    forgotten: dict[str, int]
    refused: str


class _PictureAnswers:
    """Labels and boxes of pictures. theirs: all boxes that the general model considers."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.said: list[Said] = []
        self.ours: list[Boxes] = []
        self.theirs: list[Boxes] = []

    def __len__(self) -> int:
        return len(self.sources)


def judge(
    ref: str,
    sources: Sequence[str],
    meter: OnProgress,
    frames: int = TUNE_FRAMES,
    teacher_model: str = HEAVY,
    registry: Path | None = None,
) -> Judged:
    """Judge a model on later footage, and keep the verdict beside the model.

    ref      NAME, NAME@VERSION or NAME@DIGEST
    sources  footage, as read_footage takes it; frames  most pictures of it
    teacher_model  heavy, or a model of the registry

    Raises SourceFault, and ConfigFaults for faults of options, model or footage.
    """
    cv2.setNumThreads(1)
    store = Registry(registry)
    with model_faults():
        folder = store.find(ref)
        manifest = folder.manifest
        if manifest.learned is None:
            raise ConfigFaults(
                [f"{manifest.ref}: it was neither tuned nor trained here; `models use` takes it"]
            )
        if labels_of(manifest) != coco.LABELS:
            raise ConfigFaults([f"{manifest.ref}: its classes are not COCO's, which are judged"])
        footage = read_footage(sources, frames, meter)
        meter("opening the models")
        own, light = _opened(folder), raw_detector(general().side)
        earlier, later, picture = _PictureAnswers(), _PictureAnswers(), None
        with Teacher(teacher_model, store) as told:
            for number, frame in enumerate(footage):
                meter("pictures that the teacher looks at", number + 1, len(footage))
                answers = later if is_later(frame, manifest) else earlier
                if not (answers is later or was_learned(frame, manifest)):
                    continue
                answers.sources.append(frame.source)
                answers.said.append(told.of(frame))
                answers.theirs += light.detect([frame.picture])
                if answers is later:
                    answers.ours += own.detect([frame.picture])
                    picture = frame.picture
        if picture is None:
            raise ConfigFaults([_nothing_later(manifest, len(earlier))])
        verdict, name = _verdict(manifest, earlier, later)
        forgotten = _forgotten(manifest, later.said)
        ms = _times(own, picture)
        metrics = {**verdict.metrics, "ms": round(ms[0], 3), "general_ms": round(ms[1], 3)}
        metrics |= {"against": name, "cpu": cpu_model(), "forgotten": forgotten}
        store.keep_judgement(manifest, metrics)
    return Judged(
        f"{manifest.ref} ({manifest.result_name})",
        name,
        len(earlier),
        verdict.frames,
        verdict.boxes,
        _figures(verdict.f1),
        _figures(verdict.general),
        _figures(verdict.difference),
        tuple(JudgedClass(row.label, row.there, row.general, row.f1) for row in verdict.classes),
        *ms,
        forgotten,
        verdict.refused,
    )


def is_later(frame: FootageFrame, manifest: Manifest) -> bool:
    """Return whether a picture is clearly later than the pictures that the model learned from.

    Every picture of another source is.
    """
    span = _span_of(frame, manifest)
    if span is None:
        return True
    gap_s = GAP / EARLIER * (span.until_s - span.from_s)
    return frame.moment_s > span.until_s + gap_s


def was_learned(frame: FootageFrame, manifest: Manifest) -> bool:
    """Return whether a picture is of the time that the model learned from."""
    span = _span_of(frame, manifest)
    return span is not None and span.from_s <= frame.moment_s <= span.until_s


def _span_of(frame: FootageFrame, manifest: Manifest) -> FootageSpan | None:
    assert manifest.learned is not None
    return next((one for one in manifest.learned.spans if one.source == frame.source), None)


def _nothing_later(manifest: Manifest, n_earlier: int) -> str:
    return (
        f"--from: no picture is later than the footage of {manifest.ref} ({n_earlier} are of it); "
        "allowed is later footage of these sources, or that of another day in a file of its own"
    )


def _opened(folder: ModelFolder) -> Detector:
    choice = precision_trial.run(user_cache() / "precision.json", tried=tried_of(folder))
    return open_model(folder, choice.precision, choice.threads)


def _verdict(
    manifest: Manifest, earlier: _PictureAnswers, later: _PictureAnswers
) -> tuple[ModelVerdict, str]:
    """Return the verdict, and what the general model is called in it."""
    light = general()
    merged = {coco.LABELS.index(a): coco.LABELS.index(b) for a, b in manifest.published_as.items()}
    kept = sorted(coco.LABELS.index(label) for label in manifest.default_classes)
    name, theirs = "light, as it comes", later.theirs
    least = dict.fromkeys(kept, light.min_score)
    if len(earlier) >= judgement.LEAST_FRAMES:
        name = f"light, tuned to {len(earlier)} pictures that it learned from"
        raw = [teacher.renamed(one, merged) for one in earlier.theirs]
        theirs = [teacher.renamed(one, merged) for one in theirs]
        known = [teacher.chosen(said, kept, merged) for said in earlier.said]
        sure, unsure = [one.sure for one in known], [one.unsure for one in known]
        found = thresholds.tuned(raw, sure, unsure, light.nms_iou)
        least = {class_id: score for class_id, score in found.items() if class_id in kept}
    own_least = {coco.LABELS.index(label): score for label, score in manifest.min_scores.items()}
    own_least = own_least or dict.fromkeys(kept, manifest.min_score)
    there = [teacher.chosen(said, kept, merged) for said in later.said]
    sure, unsure = [one.sure for one in there], [one.unsure for one in there]
    shown = [thresholds.shown(raw, least, light.nms_iou) for raw in theirs]
    ours = [thresholds.shown(raw, own_least, manifest.nms_iou) for raw in later.ours]
    n = len(coco.LABELS)
    own, other = (judgement.counted(boxes, sure, unsure, n) for boxes in (ours, shown))
    return judgement.judge(own, other, later.sources, coco.LABELS), name


def _forgotten(manifest: Manifest, said: Sequence[Said]) -> dict[str, int]:
    """Return the objects that the teacher is sure of, by classes that the model does not detect."""
    counts = Counter(coco.LABELS[i] for one in said for i in one.sure.class_ids.tolist())
    known: Mapping[str, str] = manifest.published_as
    return {
        label: n
        for label, n in counts.most_common()
        if known.get(label, label) not in manifest.default_classes
    }


def _times(own: Detector, picture: Picture) -> tuple[float, float]:
    """Return milliseconds per picture: of the model, and of the general one as it serves."""
    choice = precision_trial.run(user_cache() / "precision.json")
    served = detector.load("light", choice.precision, choice.threads)
    taken: tuple[list[float], list[float]] = [], []
    end = time.perf_counter() + _TIMED_S
    while time.perf_counter() < end or len(taken[0]) < _LEAST_ROUNDS:
        for ms, each in zip(taken, (own, served), strict=True):  # in turn: both meet the same load
            began = time.perf_counter()
            each.detect([picture])
            ms.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _figures(one: Interval) -> WithInterval:
    return one.middle, one.low, one.high


@dataclass(frozen=True, slots=True)
class NewFootage:
    """New footage for a model's name.

    learned  pictures that the newest model of the name learned from; None: there is no such model
    new      pictures that are later than those and the judging ones, or of other sources
    """

    learned: int | None
    new: int


def new_footage(name: str, words: tuple[str, ...], registry: Path | None) -> NewFootage:
    """Count what is new for the newest model of that name; words: as `read_footage` takes them.

    A video file that the model did not learn from counts as enough: it is not looked through.
    """
    with model_faults():
        try:
            learned = Registry(registry).find(name).manifest.learned
        except UnknownModel:
            learned = None
    if learned is None:
        return NewFootage(None, 0)
    return NewFootage(learned.frames, sum(_new_at(*named, learned)
                                          for named in named_sources(words).items()))  # fmt: skip


def _new_at(name: str, place: str, learned: Learned) -> int:
    # The later pictures of the span judged the model.
    until = {
        span.source: span.from_s + (span.until_s - span.from_s) / EARLIER for span in learned.spans
    }
    folder, _, source = place.rpartition(":")
    if not Path(place).exists() and is_name(source) and Path(folder, FOLDER).is_dir():
        kept = {of: found for of, found in kept_frames(Path(folder)).items() if of == source}
    elif Path(place, FOLDER).is_dir():
        kept = kept_frames(Path(place))
    else:
        return 0 if name in until else max(learned.frames, LEAST_NEW)
    return sum(
        one.record.moment_s > until.get(of, float("-inf"))
        for of, found in kept.items()
        for one in found.files
    )
