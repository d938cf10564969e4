"""A clip's own network, as `framegate train` makes it. Needs torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness.kept_parts import KeptPart
from benchmarks.learn.clip import Clip
from benchmarks.learn.scores import photographs, sums_by
from framegate.models import coco
from framegate.models.detector import detector, policy, precision_trial
from framegate.models.detector.network import Precision, supported
from framegate.models.detector.precision_trial import TrialSetting
from framegate.models.learning import teacher
from framegate.models.learning.tuning import Tuning
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.open import open_model
from framegate.models.training.lessons import pictured
from framegate.models.training.train_student import Course, Training, train
from framegate.stages.learning.choices import SIDES
from framegate.stages.learning.judged_student import JudgedStudent, as_model, judged
from framegate.stages.learning.student_training import begun, lessons_of, share_of

_TIMED_S = 1.0
_SMALL = 224  # of the general network that takes about as long as a compact one


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """A student that was trained and judged on a clip; its files are there as long as `taught` is.

    train_cpu_s, cpu_s  CPU seconds until it was trained, and until it was judged
    """

    training: Training
    came: JudgedStudent
    train_cpu_s: float
    cpu_s: float


@contextmanager
def taught(clip: Clip, found: Tuning, side: int, course: Course) -> Iterator[OwnNetwork]:
    """A student whose input has that longer side, of the earlier looks in `found`.

    Of the classes, one is learned where the teacher shows it in two earlier pictures. What it shows
    of others later on is missed.
    """
    torch.set_num_threads(1)
    began = time.process_time()
    kept = sorted(one.class_id for one in teacher.seen([look.said for look in found.earlier]))
    pictures = {
        (frame.source, frame.moment_s): pictured(frame.picture, side) for frame in clip.footage
    }
    earlier, later = (
        [replace(look, said=teacher.chosen(look.said, kept, {})) for look in part]
        for part in (found.earlier, found.later)
    )
    lessons = lessons_of(earlier, later, pictures, kept, side)
    with tempfile.TemporaryDirectory(prefix="framegate-learn-") as folder:
        training = begun(lessons, course, _quiet)
        train(training, Path(folder), _quiet, lambda: False)
        trained_s = time.process_time() - began
        path = Path(folder) / "model"
        path.mkdir()
        model = as_model(path, "own", training.student(), lessons, _quiet)
        came = judged(model, clip.footage, found, _quiet)
        yield OwnNetwork(training, came, trained_s, time.process_time() - began)


def own_network(clip: Clip, size: str, seed: int) -> KeptPart:
    """Trained, judged, and asked about photographs of anything."""
    before = clip.tuned()["cpu_s"]
    _, found = clip.seen
    with taught(clip, found, SIDES[size], Course(clip.given.steps, seed)) as own:
        came, training = own.came, own.training
        raw = {moment: boxes for (_, moment), boxes in came.raw.items()}
        people = clip.by_people({"own": (raw, came.side.least)})
        return {
            "f1_earlier": round(came.side.f1, 4),
            "sums": sums_by("teacher", found, came.side.shown),
            "by_labels": sums_by("labels", found, came.side.shown),
            "decided_by": came.verdict.decides.evidence,
            "refused": came.verdict.refused,
            "classes": list(training.lessons.labels),
            "min_scores": came.folder.manifest.min_scores,
            "precision": came.folder.manifest.metrics["precision"],
            "ms": [round(ms, 3) for ms in came.ms],
            "times": _times(clip, came.folder),
            "share": round(share_of(training), 4),
            "arithmetic": training.course.arithmetic,
            "steps": training.done,
            "train_cpu_s": round(own.train_cpu_s, 1),
            "cpu_s": round(before + own.cpu_s, 1),
            "forgotten": _forgotten(clip, came.folder),
            "people": people.get("own"),
        }


def _quiet(*_: object, **__: object) -> None:
    """Nobody is told how far it is."""


def _times(clip: Clip, folder: ModelFolder) -> dict[str, dict[str, float]]:
    """CPU milliseconds of a picture at one thread, in turn: of the light detector, of it at _SMALL,
    and of the clip's own network.
    """
    small = policy.light_at(_SMALL)
    kinds: list[Precision] = ["f32", *(("bf16",) if "bf16" in supported() else ())]
    told: dict[str, dict[str, float]] = {}
    for kind in kinds:
        nets = (
            detector.load("light", kind, 1),
            detector.build(small, kind, 1, coco.class_ids(None)),
            open_model(folder, kind, 1),
        )
        runs: dict[TrialSetting, Callable[[], object]] = {
            (kind, i): partial(net.detect, [clip.first.picture]) for i, net in enumerate(nets)
        }
        taken = precision_trial.measure(runs, _TIMED_S, clock=time.process_time)
        names = ("general", "small", "own")
        told[kind] = {name: round(taken[kind, i], 3) for i, name in enumerate(names)}
    return told


def _forgotten(clip: Clip, folder: ModelFolder) -> dict[str, float]:
    """F1 on photographs, against people's labels: of the network's own classes, and of the others;
    beside, the light detector as it ships.
    """
    there = photographs(clip.given.data, clip.given.photographs)
    own = {coco.LABELS.index(label) for label in folder.manifest.classes}
    others = set(range(len(coco.LABELS))) - own
    kind: Precision = "int8" if "int8" in folder.manifest.metrics["precision"] else "f32"
    ours, general = (
        [net.detect([picture])[0] for picture in there.pictures]
        for net in (open_model(folder, kind, 1), detector.load("light", threads=1))
    )
    return {
        "own": there.f1(ours, own),
        "own_general": there.f1(general, own),
        "others": there.f1(ours, others),
        "others_general": there.f1(general, others),
    }
