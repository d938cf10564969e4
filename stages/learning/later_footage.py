"""Footage that is newer than a model: how much there is, and how the model does on it.

Pictures that the model may have learned from judge nothing. The model is compared with the shipped
detector as shipped, because that is what would serve without it.
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
from framegate.models.learning.split_footage import EARLIER, GAP
from framegate.models.learning.teacher import TeacherLabels
from framegate.models.matching import Interval
from framegate.models.picture import Picture
from framegate.models.registry.manifest import FootageSpan, Learned, Manifest
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.open import labels_of, open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.system.machine import user_cache
from framegate.stages.footage.footage import Footage, FootageFrame, read_footage
from framegate.stages.footage.kept_pictures import FOLDER, kept_frames
from framegate.stages.footage.labelled import is_labelled, read_labelled
from framegate.stages.learning.camera_tuning import Gain, gains_of, general, raw_detector
from framegate.stages.learning.choices import HEAVY, LEAST_NEW, TUNE_FRAMES, WithInterval
from framegate.stages.learning.teaching import Teacher
from framegate.stages.model_adapters import model_faults

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
    f1, general_f1  with 95 % intervals, by the evidence that decides
    gains       F1 minus that of the general model, by each kind of evidence; the first decides
    ms, general_ms  per picture on this machine
    forgotten   class -> labelled objects of classes that the model does not detect
    refused     why it may not serve; "" if it may
    """

    model: str
    general: str
    earlier: int
    f1: WithInterval
    general_f1: WithInterval
    gains: tuple[Gain, ...]
    classes: tuple[JudgedClass, ...]
    ms: float
    general_ms: float
    forgotten: dict[str, int]
    refused: str

    @property
    def decides(self) -> Gain:
        """The gain by the evidence that decides."""
        return self.gains[0]


class _PictureAnswers:
    """Labels and boxes of pictures. theirs: all boxes that the general model considers."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.said: list[TeacherLabels] = []
        self.ours: list[Boxes] = []
        self.theirs: list[Boxes] = []


def judge(
    ref: str,
    sources: Sequence[str],
    meter: OnProgress,
    frames: int = TUNE_FRAMES,
    teacher_model: str = HEAVY,
    registry: Path | None = None,
    labels: Sequence[Path] = (),
) -> Judged:
    """Judge a model on later footage, and keep the verdict beside the model.

    ref      NAME, NAME@VERSION or NAME@DIGEST
    sources  footage, as read_footage takes it; frames  most pictures of it
    teacher_model  heavy, or a model of the registry
    labels   files of people's labels, as read_footage takes them

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
        footage = read_footage(sources, frames, meter, labels)
        meter("opening the models")
        own = _opened(folder)
        light = raw_detector(general().side)
        with Teacher(teacher_model, store) as labeller:
            earlier, later, picture = _answers(manifest, footage, own, light, labeller, meter)
        if picture is None:
            raise ConfigFaults([_nothing_later(manifest, earlier)])
        verdict = _verdict(manifest, later)
        name = "light, as shipped"
        forgotten = _forgotten(manifest, later.said)
        ms = _times(own, picture)
        metrics = {**verdict.metrics, "ms": round(ms[0], 3), "general_ms": round(ms[1], 3)}
        metrics |= {"against": name, "cpu": cpu_model(), "forgotten": forgotten}
        store.keep_judgement(manifest, metrics)
    decides = verdict.decides
    return Judged(
        f"{manifest.ref} ({manifest.result_name})",
        name,
        earlier,
        _figures(decides.f1),
        _figures(decides.general),
        gains_of(verdict),
        tuple(JudgedClass(row.label, row.there, row.general, row.f1) for row in decides.classes),
        *ms,
        forgotten,
        verdict.refused,
    )


def _answers(
    manifest: Manifest,
    footage: Footage,
    own: Detector,
    light: Detector,
    labeller: Teacher,
    meter: OnProgress,
) -> tuple[int, _PictureAnswers, Picture | None]:
    """Return the number of pictures of the time that the model learned from, the answers on later
    footage, and one picture of the later footage, None if there is none.

    Pictures in the gap between the two parts are skipped.
    """
    earlier = 0
    later = _PictureAnswers()
    picture = None
    for number, frame in enumerate(footage):
        meter("pictures that the teacher looks at", number + 1, len(footage))
        if is_later(frame, manifest):
            later.ours += own.detect([frame.picture])
            later.theirs += light.detect([frame.picture])
            later.sources.append(frame.source)
            later.said.append(labeller.of(frame))
            picture = frame.picture
        else:
            earlier += was_learned(frame, manifest)
    return earlier, later, picture


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
    return next((span for span in manifest.learned.spans if span.source == frame.source), None)


def _nothing_later(manifest: Manifest, n_earlier: int) -> str:
    return (
        f"--from: no picture is later than the footage of {manifest.ref} ({n_earlier} are from it)"
        "; allowed is later footage of these sources, or that of another day in a file of its own"
    )


def _opened(folder: ModelFolder) -> Detector:
    choice = precision_trial.run(user_cache() / "precision.json", tried=tried_of(folder))
    return open_model(folder, choice.precision, choice.threads)


def _verdict(manifest: Manifest, later: _PictureAnswers) -> ModelVerdict:
    """Judge the model by the classes that a person confirmed. ConfigFaults if there is none."""
    light = general()
    merged = {coco.LABELS.index(a): coco.LABELS.index(b) for a, b in manifest.published_as.items()}
    kept = _confirmed_classes(manifest, later.said)
    if not kept:
        raise ConfigFaults([_nothing_confirmed(manifest)])
    least = dict.fromkeys(kept, light.min_score)
    own_least = {coco.LABELS.index(label): score for label, score in manifest.min_scores.items()}
    own_least = own_least or dict.fromkeys(kept, manifest.min_score)
    own_least = {class_id: score for class_id, score in own_least.items() if class_id in kept}
    said = [teacher.chosen(labels, kept, merged) for labels in later.said]
    theirs = [thresholds.shown(boxes, least, light.nms_iou) for boxes in later.theirs]
    ours = [thresholds.shown(boxes, own_least, manifest.nms_iou) for boxes in later.ours]
    return judgement.judge(ours, theirs, said, later.sources, coco.LABELS)


def _confirmed_classes(manifest: Manifest, said: Sequence[TeacherLabels]) -> list[int]:
    """Return the classes of the model that people confirmed when it was made, or labelled here."""
    assert manifest.learned is not None
    by_people = {coco.LABELS[class_id] for class_id in teacher.confirmed(said)}
    known = by_people | set(manifest.learned.confirmed)
    confirmed = {manifest.published_as.get(label, label) for label in known}
    kept = [label for label in manifest.default_classes if label in confirmed]
    return sorted(coco.LABELS.index(label) for label in kept)


def _nothing_confirmed(manifest: Manifest) -> str:
    classes = ", ".join(manifest.default_classes)
    return (
        f"{manifest.ref}: no person confirmed that its classes ({classes}) are there, so a gain "
        "could be of things that are not; judge it by people's labels (--labels), or learn it "
        "again with --classes"
    )


def _forgotten(manifest: Manifest, said: Sequence[TeacherLabels]) -> dict[str, int]:
    """Return the number of labelled objects, by classes that the model does not detect."""
    counts: Counter[str] = Counter()
    for labels in said:
        counts.update(coco.LABELS[class_id] for class_id in labels.sure.class_ids.tolist())
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
        # In turn, so that a change of load affects both.
        for ms, each in zip(taken, (own, served), strict=True):
            began = time.perf_counter()
            each.detect([picture])
            ms.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _figures(interval: Interval) -> WithInterval:
    return interval.middle, interval.low, interval.high


@dataclass(frozen=True, slots=True)
class NewFootage:
    """New footage for a model's name.

    learned  pictures that the newest model of the name learned from; None: there is no such model
    new      pictures that are later than those and the judging ones, or of other sources
    """

    learned: int | None
    new: int


def newest_model(name: str, registry: Path | None) -> Manifest | None:
    """Return the newest model of that name; None if there is none. Raises ConfigFaults.

    registry  None: the default one
    """
    with model_faults():
        try:
            return Registry(registry).find(name).manifest
        except UnknownModel:
            return None


def new_footage(name: str, words: tuple[str, ...], registry: Path | None) -> NewFootage:
    """Count the new pictures for the newest model of that name; words: as for `read_footage`.

    A video file that the model did not learn from is not decoded; it counts as enough.
    """
    model = newest_model(name, registry)
    if model is None or model.learned is None:
        return NewFootage(None, 0)
    learned = model.learned
    new = sum(_new_at(name, place, learned) for name, place in named_sources(words).items())
    return NewFootage(learned.frames, new)


def _new_at(name: str, place: str, learned: Learned) -> int:
    # The footage after a span, up to these times, judged the model.
    until_s = {
        span.source: span.from_s + (span.until_s - span.from_s) / EARLIER for span in learned.spans
    }
    folder, _, source = place.rpartition(":")
    moments: list[tuple[str, float]]
    if not Path(place).exists() and is_name(source) and Path(folder, FOLDER).is_dir():
        moments = [each for each in _kept_moments(Path(folder)) if each[0] == source]
    elif Path(place, FOLDER).is_dir():
        moments = _kept_moments(Path(place))
    elif Path(place).is_dir() and is_labelled(Path(place)):
        pictures = read_labelled(Path(place), name).pictures
        moments = [(picture.source, picture.moment_s) for picture in pictures]
    elif name in until_s:
        return 0
    else:
        return max(learned.frames, LEAST_NEW)
    return sum(at_s > until_s.get(source, float("-inf")) for source, at_s in moments)


def _kept_moments(data: Path) -> list[tuple[str, float]]:
    """Return the source and moment of each kept frame in a data folder."""
    moments: list[tuple[str, float]] = []
    for source, kept in kept_frames(data).items():
        moments += [(source, file.record.moment_s) for file in kept.files]
    return moments
