"""Tuning for a camera: classes, least scores and input size of the light detector.

No weights change. A teacher labels the pictures of the camera that people did not label. The
numbers are chosen on the earlier part of the footage; the later part judges them, beside the
unchanged light detector. `judgement` decides whether the model is added to the registry.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy, precision_trial
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import cpu_model, nearest
from framegate.models.errors import UnknownModel
from framegate.models.learning import judgement, teacher, thresholds, tuning
from framegate.models.learning.judgement import Comparison, JudgedBy, ModelVerdict
from framegate.models.learning.split_footage import EARLIER, GAP
from framegate.models.learning.teacher import SeenClass
from framegate.models.learning.tuning import General, Look, TunedSide, Tuning
from framegate.models.picture import Picture
from framegate.models.registry.manifest import NAME, FootageSpan, Learned, check_pattern
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.open import general_folder
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.system.machine import user_cache
from framegate.pipeline.system.outputs import write_whole
from framegate.stages.detect.options import is_own
from framegate.stages.footage.footage import Footage, FootageFrame, read_footage
from framegate.stages.learning.choices import (
    HEAVY,
    TUNE_FRAMES,
    Choose,
    ClassChoice,
    ClassSeen,
    ClassWishes,
    WithInterval,
)
from framegate.stages.learning.teaching import ClassSheet, Teacher
from framegate.stages.model_adapters import model_faults

SIDES: Final = (416, 320, 224)  # longer sides that are tried, the usual one first
MOST_RAW: Final = 1000  # boxes of a picture before one is left for each thing
_TIMED_S: Final = 1.0
_LEAST_ROUNDS: Final = 5
_LATER: Final = 1 - EARLIER - GAP


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """A request to tune.

    sources  footage, as read_footage takes it; frames  most pictures of it
    side     longer side of the input; None: the fastest that is good enough
    teacher  heavy, or a model of the registry
    sheet    file for pictures of each class; None: no file
    wishes   about classes, as wishes_of returns them
    labels   files of people's labels, as read_footage takes them
    """

    name: str
    sources: tuple[str, ...]
    frames: int = TUNE_FRAMES
    side: int | None = None
    teacher: str = HEAVY
    sheet: Path | None = None
    overwrite: bool = False
    registry: Path | None = None
    wishes: ClassWishes = ((), {})
    labels: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class SizeRow:
    """A candidate. earlier: F1 on the part it was tuned on; later: on the part that judges, by the
    evidence that decides.
    """

    name: str
    earlier: float | None
    later: WithInterval
    ms: float
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class of the judging part: F1 before and after tuning, by the evidence that decides.

    there  number of its objects; least: threshold, None if off
    """

    label: str
    there: int
    general: float | None
    f1: float | None
    least: float | None


@dataclass(frozen=True, slots=True)
class Gain:
    """The difference of two models' F1 by one kind of evidence, on its pictures and boxes."""

    evidence: JudgedBy
    difference: WithInterval
    frames: int
    boxes: int


def gains_of(verdict: ModelVerdict) -> tuple[Gain, ...]:
    """Return the gain by each kind of evidence, first that by which the verdict was decided."""
    return tuple(map(_gain, (verdict.decides, *verdict.others)))


def _gain(comparison: Comparison) -> Gain:
    difference = comparison.difference
    figures = difference.middle, difference.low, difference.high
    return Gain(comparison.evidence, figures, comparison.frames, comparison.boxes)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The outcome of tuning or training.

    gains     F1 minus that of the unchanged detector on the judging part, by each kind of evidence;
              the first decides
    tuned_on  pictures
    refused   why the model was not added; "" if it was
    added     NAME@VERSION
    """

    sizes: tuple[SizeRow, ...]
    classes: tuple[ClassRow, ...]
    gains: tuple[Gain, ...]
    tuned_on: int
    teacher: str
    refused: str
    added: str | None

    @property
    def decides(self) -> Gain:
        """The gain by the evidence that decides."""
        return self.gains[0]


def tune(request: TuneRequest, choose: Choose, meter: OnProgress) -> Tuned:
    """Look through footage, let `choose` choose classes, tune, judge, and add a model that may
    serve.

    choose  called once, with the classes that were seen

    KeyboardInterrupt is not caught; the labels so far are kept, so the next call continues from
    there. Raises SourceFault, and ConfigFaults for faults of options or footage.
    """
    cv2.setNumThreads(1)
    store = Registry(request.registry)
    with model_faults():
        check_pattern("NAME", request.name, NAME)
        if is_own(request.name):
            raise ConfigFaults([f"{request.name}: this name is reserved for a shipped model"])
        check_classes(request.wishes)
        footage = read_footage(request.sources, request.frames, meter, request.labels)
        check_length(len(footage))
        sides: tuple[int, ...] = SIDES
        if request.side is not None:
            sides = tuple({general().side, request.side})
        seen = look_through(footage, sides, request.teacher, store, meter)
        before = confirmed_before(store, request.name)
        choice = chosen_classes(seen, before, request.sheet, request.overwrite, choose)
        meter("tuning")
        kept = list(coco.class_ids(choice.kept))
        merged = {coco.LABELS.index(a): coco.LABELS.index(b) for a, b in choice.merged.items()}
        tuned = tuning.tune(seen.looks, kept, merged, general(), len(coco.LABELS))
        if not tuned.later:
            raise ConfigFaults(["--from: no picture is left to judge; allowed is longer footage"])
        meter("measuring how fast they are")
        ms = times([row.side for row in tuned.sides], seen.picture, kept)
        best = tuned.best(ms)
        verdict = tuned.judged(best, coco.LABELS)
        added = None
        if verdict.allowed:
            metrics = verdict.metrics | {"ms": round(ms[best.side], 3), "cpu": cpu_model()}
            learned = learned_of(tuned, seen, choice)
            added = _put(store, request, best, learned, choice.merged, metrics)
        return Tuned(
            _size_rows(tuned, best, ms, verdict.decides.evidence),
            class_rows(verdict, best, choice),
            gains_of(verdict),
            len(tuned.earlier),
            seen.teacher,
            verdict.refused,
            added,
        )


def general() -> General:
    """Return the unchanged light detector."""
    light = policy.load("light")
    return General(light.parts[0][1], light.min_score, light.nms_iou)


def raw_detector(side: int) -> Detector:
    """Return the light detector at a size, with all boxes that it considers; see `tuning.Look`."""
    light = policy.light_at(side)
    choices = replace(
        light,
        min_score=float(thresholds.GRID[0]),
        nms_iou=1.0,
        max_boxes=MOST_RAW,
    )
    precision = nearest(light.precision)
    return detector.build(choices, precision, 1, coco.class_ids(None))


# -- Looking through footage.


@dataclass(frozen=True, slots=True, eq=False)
class FootageSeen:
    """All that is kept of footage.

    picture  one of its pictures, to measure times with
    """

    looks: tuple[Look, ...]
    classes: tuple[SeenClass, ...]
    sheet: ClassSheet
    picture: Picture
    teacher: str


def check_length(n_pictures: int) -> None:
    """Raise ConfigFaults if too few pictures would judge."""
    needed = int(judgement.LEAST_FRAMES / _LATER) + 1
    if n_pictures < needed:
        raise ConfigFaults(
            [
                f"--from: {n_pictures} pictures in which something moved; {needed} are needed, as "
                f"the last {_LATER:.0%} of the time judge, with {judgement.LEAST_FRAMES} pictures "
                "or more. Allowed is longer footage, several files, or more of it (--frames)"
            ]
        )


def check_classes(wishes: ClassWishes) -> None:
    """Raise ConfigFaults for unknown classes, before the teacher looks at anything."""
    only, merge = wishes
    options = {"--classes": only, "--merge": (*merge, *merge.values())}
    faults = []
    for option, names in options.items():
        for name in names:
            if name not in coco.LABELS:
                near = did_you_mean(name, coco.LABELS)
                faults.append(f"{option} {name}: no class of COCO{near}")
    if faults:
        raise ConfigFaults(faults)


def _nothing_seen(seen: FootageSeen) -> str:
    return (
        f"--from: {len(seen.looks)} pictures; there is no class of which the teacher "
        f"({seen.teacher}) is sure in at least {teacher.LEAST_FRAMES} of them; use footage with "
        "objects"
    )


def look_through(
    footage: Footage,
    sides: Sequence[int],
    teacher_model: str,
    store: Registry,
    meter: OnProgress,
    keep: Callable[[FootageFrame], None] = lambda _: None,
) -> FootageSeen:
    """Run the teacher, and the light detector at each size, on each picture.

    Only one picture is kept here; `keep` is called with each.
    """
    meter("opening the models")
    detectors = {side: raw_detector(side) for side in sides}
    looks: list[Look] = []
    sheet = ClassSheet()
    picture = None
    with Teacher(teacher_model, store) as labeller:
        for number, frame in enumerate(footage):
            labels = labeller.of(frame)
            raw = {side: each.detect([frame.picture])[0] for side, each in detectors.items()}
            looks.append(Look(frame.source, frame.moment_s, labels, raw))
            sheet.add(frame.picture, labels.sure)
            keep(frame)
            picture = picture or frame.picture
            known = ""
            if labeller.known:
                known = f"{labeller.known} known from before"
            meter("pictures that the teacher looks at", number + 1, len(footage), more=known)
        assert picture is not None
        classes = teacher.seen([look.said for look in looks])
        return FootageSeen(tuple(looks), classes, sheet, picture, labeller.name)


def confirmed_before(store: Registry, name: str) -> frozenset[str]:
    """Return the classes that a person confirmed for the newest model of that name."""
    try:
        learned = store.find(name).manifest.learned
    except UnknownModel:
        return frozenset()
    if learned is None:
        return frozenset()
    return frozenset(learned.confirmed)


def chosen_classes(
    seen: FootageSeen,
    confirmed: Collection[str],
    sheet: Path | None,
    overwrite: bool,
    choose: Choose,
) -> ClassChoice:
    """Return the choice of `choose` among the seen classes; write `sheet` before it is called.

    confirmed  classes that a person confirmed for an earlier model
    """
    by_people = teacher.confirmed([look.said for look in seen.looks])
    classes = []
    for row in seen.classes:
        label = coco.LABELS[row.class_id]
        is_confirmed = row.class_id in by_people or label in confirmed
        classes.append(ClassSeen(label, row.objects, row.frames, is_confirmed))
    if not classes:
        raise ConfigFaults([_nothing_seen(seen)])
    _write_sheet(seen, sheet, overwrite)
    return choose(classes)


def _write_sheet(seen: FootageSeen, sheet: Path | None, overwrite: bool) -> None:
    if sheet is None:
        return
    rows = [
        (row.class_id, f"{coco.LABELS[row.class_id]}\n{row.objects} objects\n{row.frames} pictures")
        for row in seen.classes
    ]
    try:
        drawn = seen.sheet.drawn(rows, sheet.suffix)
    except ValueError as error:
        raise ConfigFaults([f"--sheet {sheet}: {error}"]) from error
    write_whole("--sheet", sheet, drawn, overwrite)


# -- Outcome.


def times(sides: Sequence[int], picture: Picture, kept: Sequence[int]) -> dict[int, float]:
    """Return milliseconds per picture at each size, as it would serve, measured in turn."""
    choice = precision_trial.run(user_cache() / "precision.json")
    runs = {}
    for side in sides:
        served = detector.build(
            policy.light_at(side),
            choice.precision,
            choice.threads,
            tuple(sorted(kept)),
        )
        runs[side] = partial(served.detect, [picture])
        runs[side]()
    taken: dict[int, list[float]] = {side: [] for side in sides}
    end = time.perf_counter() + _TIMED_S
    while time.perf_counter() < end or len(taken[sides[-1]]) < _LEAST_ROUNDS:
        for side, run in runs.items():
            began = time.perf_counter()
            run()
            taken[side].append(1e3 * (time.perf_counter() - began))
    return {side: statistics.median(ms) for side, ms in taken.items()}


def _size_rows(
    tuned: Tuning, best: TunedSide, ms: Mapping[int, float], evidence: JudgedBy
) -> tuple[SizeRow, ...]:
    untuned = general().side
    rows = []
    if untuned in ms:
        figures = later_f1(tuned, tuned.general, evidence)
        rows.append(SizeRow(f"{untuned}, as shipped", None, figures, ms[untuned], False))
    for each in tuned.sides:
        figures = later_f1(tuned, each.shown, evidence)
        rows.append(SizeRow(f"{each.side}, tuned", each.f1, figures, ms[each.side], each is best))
    return tuple(rows)


def later_f1(tuned: Tuning, shown: Sequence[Boxes], evidence: JudgedBy) -> WithInterval:
    """Return F1 of boxes in the judging pictures by one kind of evidence, which judges some."""
    rows = judgement.rows_of(evidence, tuned.said)
    said = [tuned.said[row] for row in rows]
    counts = judgement.counted_by(evidence, [shown[row] for row in rows], said, len(coco.LABELS))
    f1 = judgement.f1_of(counts, [tuned.sources[row] for row in rows])
    return f1.middle, f1.low, f1.high


def class_rows(verdict: ModelVerdict, best: TunedSide, choice: ClassChoice) -> tuple[ClassRow, ...]:
    """Return the chosen classes with their figures."""
    least = {coco.LABELS[class_id]: score for class_id, score in best.least.items()}
    figures = {row.label: row for row in verdict.decides.classes}
    rows = []
    for label in choice.kept:
        row = ClassRow(label, 0, None, None, least.get(label))
        if label in figures:
            judged = figures[label]
            row = replace(row, there=judged.there, general=judged.general, f1=judged.f1)
        rows.append(row)
    return tuple(rows)


def _put(
    store: Registry,
    request: TuneRequest,
    best: TunedSide,
    learned: Learned,
    merged: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> str:
    """Write the model into the registry, and return NAME@VERSION."""
    least = {coco.LABELS[class_id]: score for class_id, score in best.least.items()}
    with tempfile.TemporaryDirectory(prefix="framegate-tune-") as path:
        version = next_version(store, request.name)
        folder = general_folder(Path(path), request.name, version, best.side)
        manifest = replace(
            folder.manifest,
            min_score=min(least.values()),
            min_scores=least,
            merged=dict(merged),
            learned=learned,
            metrics={**folder.manifest.metrics, **metrics},
            provenance=f"tuned, with its weights as they were; {folder.manifest.provenance}",
        )
        return store.put(ModelFolder(folder.path, manifest)).manifest.ref


def learned_of(tuned: Tuning, seen: FootageSeen, choice: ClassChoice) -> Learned:
    """Return the earlier pictures and the chosen classes, for the manifest of a model."""
    spans = []
    for source in dict.fromkeys(look.source for look in tuned.earlier):
        moments = [look.moment_s for look in tuned.earlier if look.source == source]
        spans.append(FootageSpan(source, min(moments), max(moments)))
    boxes = sum(len(look.said.sure) for look in tuned.earlier)
    general_name = f"light ({'+'.join(detector.load('light').models)})"
    used = {*choice.kept, *choice.merged}
    labels = [coco.LABELS[row.class_id] for row in seen.classes]
    struck = tuple(label for label in labels if label not in used)
    confirmed = tuple(label for label in coco.LABELS if label in used)
    return Learned(
        general_name, seen.teacher, len(tuned.earlier), boxes, tuple(spans), struck, confirmed
    )


def next_version(store: Registry, name: str) -> str:
    """Return the number after the highest version of this name."""
    numbers = [0]
    for folder in store.models():
        if folder.manifest.name == name:
            with suppress(ValueError):
                numbers.append(int(folder.manifest.version))
    return str(max(numbers) + 1)
