"""Training of a small network for one camera, which later footage judges.

The teacher, the choice of classes, the least scores and the judgement are those of camera_tuning.
The student is compared with the light detector as it ships, and tuned to the same pictures.
Footage is read once more when the network exists, so that the network that serves is the one that
is judged.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

import cv2
import numpy as np
import torch

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.learning import tuning
from framegate.models.learning.tuning import Look, Tuning
from framegate.models.picture import from_bgr, to_bgr
from framegate.models.registry.manifest import NAME, Learned, check_pattern
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.registry import Registry
from framegate.models.training.lessons import (
    LESSONS,
    Lesson,
    Lessons,
    batch,
    input_size,
    pictured,
    plain,
)
from framegate.models.training.nanodet_plus import (
    Architecture,
    NanoDetPlus,
    as_input,
    multiplications,
)
from framegate.models.training.nanodet_plus import general as general_net
from framegate.models.training.narrowing import narrowed
from framegate.models.training.train_student import (
    CHECKPOINT,
    Course,
    Training,
    beside,
    fastest,
    settle_down,
    weights_digest,
)
from framegate.models.training.train_student import train as train_student
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.system.outputs import write_whole
from framegate.stages.detect.options import is_own
from framegate.stages.draw.gate_overlay import draw
from framegate.stages.footage.footage import FootageFrame, evenly, read_footage
from framegate.stages.learning.camera_tuning import (
    SizeRow,
    Tuned,
    check_classes,
    check_length,
    chosen_classes,
    class_rows,
    confirmed_before,
    gains_of,
    general,
    later_f1,
    learned_of,
    look_through,
    next_version,
)
from framegate.stages.learning.choices import (
    SIDES,
    STEPS,
    TRAINING_S,
    Choose,
    ClassChoice,
)
from framegate.stages.learning.judged_student import JudgedStudent, PictureKey, as_model, judged
from framegate.stages.learning.training_request import (
    ASKED,
    SavedRequest,
    TrainRequest,
    locked_folder,
    read_request,
    save_request,
)
from framegate.stages.model_adapters import model_faults

# Of the light detector's channels, that a camera's own network has: 56 % of the multiplications at
# the same input. Half the channels are 28 %, but on a crowded road the narrowed network then starts
# at 83 % of the light detector's F1, not at 92 %.
SHARE: Final = 0.75
_N_NARROWING: Final = 32  # pictures that the least squares see
_N_TOLD: Final = 40  # later pictures that the F1 on the way is of
_N_SHOWN, _IN_A_ROW = 12, 3
_LEAST_STEPS, _MOST_STEPS = 100, 100_000


@dataclass(frozen=True, slots=True)
class Views:
    """Files to write on the way: objects of each class; training examples."""

    sheet: Path | None
    show: Path | None
    overwrite: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of a training.

    found    as of `tune`
    steps, of  steps done, and planned; fewer if the training was stopped
    cpu_s    of training, of this process
    share    of the general model's multiplications
    registry  of the request
    light    F1 of the light detector, tuned to the labels, by longer side of its input: the
             student's side was chosen by it; {}: the request has a side
    """

    found: Tuned | None
    steps: int
    of: int
    cpu_s: float
    share: float
    registry: Path | None
    light: dict[int, float]


def train(
    request: TrainRequest, views: Views, resume: bool, choose: Choose, meter: OnProgress
) -> Trained:
    """Look through footage, let `choose` choose classes, narrow, train, judge, and add a model that
    may serve.

    resume  the original request is used, except for device and processes
    choose  called once, with the classes that were seen

    The first Ctrl-C during training ends it after a step, the next one at once. Raises SourceFault,
    and ConfigFaults for faults of options or footage.
    """
    _check_request(request)
    with model_faults(), locked_folder(request.folder):
        asked = read_request(request, resume)
        request, store = asked.request, Registry(asked.request.registry)
        settle_down()
        footage = read_footage(request.sources, request.frames, meter, request.labels)
        check_length(len(footage))
        wanted = (request.side,) if request.side else tuple(SIDES.values())
        pictures: dict[int, dict[PictureKey, Lesson]] = {side: {} for side in wanted}

        def keep(frame: FootageFrame) -> None:
            for side, kept in pictures.items():
                kept[frame.source, frame.moment_s] = pictured(frame.picture, side)

        looked_at = (general().side, *(() if request.side else wanted))
        sides = tuple(dict.fromkeys(looked_at))  # what the student is held against is the first
        seen = look_through(footage, sides, request.teacher, store, meter, keep)
        if asked.choice is None:
            before = confirmed_before(store, request.name)
            choice = chosen_classes(seen, before, views.sheet, views.overwrite, choose)
            asked = SavedRequest(request, choice)
            save_request(asked)
        found = tuning.tune(seen.looks, asked.kept, asked.merged, general(), len(coco.LABELS))
        side = request.side or found.best({one.side: one.side for one in found.sides}).side
        lessons = _lessons(request.folder, found, pictures[side], asked.kept, side)
        if views.show is not None:
            _show(lessons, request.seed, views.show, views.overwrite)
        training, cpu_s, is_over = _trained(request, lessons, meter)
        if not is_over:
            steps = training.course.steps
            return Trained(None, training.done, steps, cpu_s, 0.0, request.registry, {})
        share = share_of(training)
        metrics = {"share": round(share, 3), TRAINING_S: round(cpu_s)} | _facts(training)
        learned = replace(learned_of(found, seen, asked.classes), merged=asked.classes.merged)
        with tempfile.TemporaryDirectory(prefix="framegate-train-") as path:
            student = as_model(Path(path), request.name, training.student(), lessons, meter)
            outcome = judged(student, footage, found, meter)
            allowed = outcome.verdict.allowed
            added = _put(store, outcome, learned, metrics) if allowed else None
        for name in (ASKED, LESSONS, CHECKPOINT):
            (request.folder / name).unlink()
        came = _compared(outcome, found, asked.classes, seen.teacher, added)
        light = {} if request.side else {one.side: one.f1 for one in found.sides}
        steps = training.course.steps
        return Trained(came, training.done, steps, cpu_s, share, request.registry, light)


def _check_request(request: TrainRequest) -> None:
    """Raise ConfigFaults for a name, classes or a device that cannot be used."""
    with model_faults():
        check_pattern("NAME", request.name, NAME)
    if is_own(request.name):
        raise ConfigFaults([f"{request.name}: this name is reserved for a shipped model"])
    check_classes(request.wishes)
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ConfigFaults(["--device cuda: torch finds no GPU here; allowed is cpu"])


# -- What the student learns from.


def _lessons(
    folder: Path,
    found: Tuning,
    pictures: Mapping[PictureKey, Lesson],
    kept: Sequence[int],
    side: int,
) -> Lessons:
    """Return the lessons of the folder; make and write them if there are none."""
    if (folder / LESSONS).exists():
        return Lessons.read(folder)
    lessons = lessons_of(found.earlier, found.later, pictures, kept, side)
    lessons.write(folder)
    return lessons


def lessons_of(
    earlier: Sequence[Look],
    later: Sequence[Look],
    pictures: Mapping[PictureKey, Lesson],
    kept: Sequence[int],
    side: int,
) -> Lessons:
    """Return the lessons of a student with that longer side, and those that its progress is
    measured on.

    pictures  `pictured`, of all looks
    kept      COCO's ids of its classes, in their order; sure objects in the looks are of these
    """
    place = np.full(len(coco.LABELS), len(kept), np.int32)
    place[list(kept)] = np.arange(len(kept))

    def taught(look: Look) -> Lesson:
        sure, unsure = (
            Boxes(one.xyxy, one.scores, place[one.class_ids])
            for one in (look.said.sure, look.said.unsure)
        )
        return pictures[look.source, look.moment_s].taught(sure, unsure)

    # A picture teaches only if every class of the student is labelled there.
    earlier = [look for look in earlier if look.said.people is None or {*kept} <= look.said.people]
    if not earlier:
        raise ConfigFaults(
            ["--classes: people labelled only some of these classes, in every picture that would "
             "teach; label all of them, or confirm fewer"]
        )  # fmt: skip
    size = input_size((one.source for one in pictures.values()), side)
    labels = tuple(coco.LABELS[class_id] for class_id in kept)
    return Lessons(labels, size, [*map(taught, earlier)], [*map(taught, evenly(later, _N_TOLD))])


def _show(lessons: Lessons, seed: int, file: Path, overwrite: bool) -> None:
    """Write examples of the first steps, with their objects; thin boxes: the teacher is unsure."""
    seen = batch(lessons.earlier, lessons.size, seed, 0, range(_N_SHOWN), _N_SHOWN)
    drawn = []
    for one in seen:
        found = [
            Object(None, lessons.labels[class_id], class_id, 1.0, tuple(box), "detected")
            for box, class_id in zip(
                one.objects.boxes.tolist(), one.objects.class_ids.tolist(), strict=True
            )
        ]
        picture = draw(from_bgr(one.bgr), found)
        bgr = to_bgr(picture, lessons.size)
        for box in one.objects.unsure.round().int().tolist():
            cv2.rectangle(bgr, box[:2], box[2:], (160, 160, 160), 1)
        drawn.append(bgr)
    rows = [np.hstack(drawn[i : i + _IN_A_ROW]) for i in range(0, len(drawn), _IN_A_ROW)]
    try:
        _, coded = cv2.imencode(file.suffix, np.vstack(rows))
    except cv2.error as error:
        raise ConfigFaults([f"--show {file}: allowed are .jpg and .png"]) from error
    write_whole("--show", file, coded.tobytes(), overwrite)


# -- Narrowing and training.


def _trained(
    request: TrainRequest, lessons: Lessons, meter: OnProgress
) -> tuple[Training, float, bool]:
    """Return the training, its CPU seconds, and whether it is complete."""
    started = time.process_time()
    if not (request.folder / CHECKPOINT).exists():
        course = Course(STEPS, request.seed, device=request.device)
        begun(lessons, course, meter, request.processes, request.minutes).save(request.folder)
    together = beside(request.folder, request.processes) if request.processes > 1 else nullcontext()
    with _stopping() as stops, together:
        training = Training.resumed(request.folder, lessons, request.device)

        def tell(done: int, loss: float, f1: float) -> None:
            told = f"loss {loss:.3f}, F1 {f1:.3f}"
            meter("training", done, training.course.steps, more=told)

        is_over = train_student(training, request.folder, tell, stops)
    return training, time.process_time() - started, is_over


def begun(
    lessons: Lessons,
    course: Course,
    meter: OnProgress,
    processes: int = 1,
    minutes: float | None = None,
) -> Training:
    """Return a student before its first step, narrowed, in the arithmetic that is the fastest here.

    minutes  of training; None: the course's number of steps
    """
    meter("narrowing")
    shown = evenly(lessons.earlier, _N_NARROWING)
    pixels = as_input(np.stack([plain(one, lessons.size).bgr for one in shown]))
    kept = [coco.LABELS.index(label) for label in lessons.labels]
    narrow = NanoDetPlus(Architecture().times(SHARE, len(kept))).eval()
    net = narrowed(general_net(), narrow, pixels, kept, seed=course.seed)
    meter("measuring a step")
    arithmetic, step_s = fastest(net, lessons, course, processes)
    if minutes is not None:
        steps = round(minutes * 60 / step_s)
        course = replace(course, steps=min(max(steps, _LEAST_STEPS), _MOST_STEPS))
    return Training(net, lessons, replace(course, arithmetic=arithmetic))


def share_of(training: Training) -> float:
    """Return the student's share of the light detector's multiplications on the same pictures."""
    lessons = training.lessons
    size = input_size((one.source for one in lessons.earlier), general().side)
    ours = multiplications(training.student(), lessons.size)
    return ours / multiplications(general_net(), size)


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether to stop; a second signal stops at once."""
    wanted = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        wanted.set()
        signal.signal(number, before[signal.Signals(number)])

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield wanted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- Outcome.


def _facts(training: Training) -> dict[str, Any]:
    """Return the facts that determine the weights, and their digest."""
    return {
        "steps": training.done,
        "seed": training.course.seed,
        "arithmetic": training.course.arithmetic,
        "weights_sha256": weights_digest(training.student()),
    }


def _put(
    store: Registry, outcome: JudgedStudent, learned: Learned, metrics: Mapping[str, Any]
) -> str:
    """Write the model into the registry, and return NAME@VERSION."""
    manifest = outcome.folder.manifest
    manifest = replace(
        manifest,
        version=next_version(store, manifest.name),
        metrics={**manifest.metrics, **metrics},
        learned=learned,
    )
    return store.put(ModelFolder(outcome.folder.path, manifest)).manifest.ref


def _compared(
    outcome: JudgedStudent, found: Tuning, choice: ClassChoice, teacher: str, added: str | None
) -> Tuned:
    """Return the comparison of the student with the light detector."""
    verdict, side, own = outcome.verdict, outcome.side, outcome.folder.manifest.input
    light, tuned, (light_ms, own_ms) = general().side, found.sides[0], outcome.ms
    own_name = f"{max(own.width, own.height)}, trained"
    evidence = verdict.decides.evidence
    shipped_f1, tuned_f1, own_f1 = (
        later_f1(found, shown, evidence) for shown in (found.general, tuned.shown, side.shown)
    )
    rows = (
        SizeRow(f"{light}, as shipped", None, shipped_f1, light_ms, False),
        SizeRow(f"{light}, tuned", tuned.f1, tuned_f1, light_ms, False),
        SizeRow(own_name, side.f1, own_f1, own_ms, verdict.allowed),
    )
    return Tuned(
        rows,
        class_rows(verdict, side, choice),
        gains_of(verdict),
        len(found.earlier),
        teacher,
        verdict.refused,
        added,
    )
