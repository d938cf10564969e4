"""What is gained where parts of large pictures are seen at the camera's own resolution.

    python -m benchmarks.native --data FOLDER [--write]

People that are at most 48 pixels high in the network's input (on a 1080p picture 221 of its own):
how many are found in one whole pass, in looks at their places, and in such looks seen closer,
within budgets of so many whole passes; and what that costs in pixels and in time beside a whole
pass of the same frame. Their places are told by the truth, as if each of them had moved. Then the
same for the running detector, whose gate finds the places itself, with `native` off and on.

Scenes: MOT16-04 (eight frames, labelled) and, enlarged to 1080 rows, PETS 2009 (labelled) and PETS
2001 (truth: the heavy pass). None was tuned on. The last line is the result as one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from benchmarks import report
from benchmarks.gate_clips import GateClip
from benchmarks.gate_run import light, settings
from benchmarks.labelled_people import read_truth
from models import coco, crops, detector, seams
from models.boxes import Boxes, FloatArray, empty
from models.crops import CropSettings, Look
from models.detector import Detector
from models.nms import iou
from models.picture import Picture
from models.preprocess import inner_size
from models.track_state import no_tracks
from stages.attention import Moment
from stages.belief import BeliefSettings
from stages.gate_options import GateOptions
from stages.looking import look_at
from stages.memory import Memory

SMALL: Final = 48  # pixels of the network's input
ROWS: Final = 1080
ZOOMS: Final = (2, 4)
BUDGETS: Final = (0.6, 1.0, 2.0, 5.0)  # whole passes
_PERSON: Final = coco.LABELS.index("person")
_NONE: Final = np.empty((0, 4), np.float32)


class Scene(NamedTuple):
    """A clip: `frames` of it are played, every `step`-th is judged."""

    file: str
    frames: int
    step: int
    labelled: bool


SCENES: Final = (
    Scene("mot16-04-night-1080p.mp4", 8, 1, True),
    Scene("pets09-s2l1-view001-part1.mp4", 124, 8, True),
    Scene("pets2001-campus.mp4", 600, 40, False),
)


@dataclass(slots=True)
class Found:
    """Sums over the judged frames of one way of looking."""

    small: list[int] = field(default_factory=lambda: [0, 0])  # found, there
    all: list[int] = field(default_factory=lambda: [0, 0])
    said: int = 0
    pixels: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, boxes: Boxes, people: FloatArray, small: Sequence[bool]) -> None:
        """One frame's answer."""
        ours = boxes.xyxy[boxes.class_ids == _PERSON]
        hit = met(ours, people)
        self.said += len(ours)
        self.all = [self.all[0] + int(hit.sum()), self.all[1] + len(hit)]
        there = np.array(small, np.bool_)
        self.small = [self.small[0] + int(hit[there].sum()), self.small[1] + int(there.sum())]

    def told(self, way: str, whole: Found) -> dict[str, Any]:
        """Recall and precision, and the cost in whole passes."""
        return {
            "way": way,
            "recall_small": round(self.small[0] / max(1, self.small[1]), 4),
            "recall": round(self.all[0] / max(1, self.all[1]), 4),
            "precision": round(self.all[0] / max(1, self.said), 4),
            "pixels": round(float(np.mean(self.pixels) / np.mean(whole.pixels)), 3),
            "time": round(float(np.mean(self.seconds) / np.mean(whole.seconds)), 3),
        }


def met(ours: FloatArray, people: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of `people` are found: each box, the best first, takes the one that it meets most."""
    hit = np.zeros(len(people), np.bool_)
    for overlaps in iou(ours, people):
        free = np.where(hit, 0, overlaps)
        if len(free) and free.max() >= 0.5:
            hit[free.argmax()] = True
    return hit


def ways(size: tuple[int, int], long_side: int) -> dict[str, CropSettings | tuple[Look, ...]]:
    """What is compared: fixed looks, or settings for looks at the people's places."""
    whole = crops.whole(*size, long_side)
    twice = Look(crops.whole(*size, 2 * long_side).rect, 2)
    near = {
        f"closer, {budget:g} passes": replace(crops.DEFAULT, zooms=ZOOMS, zoom_share=budget)
        for budget in BUDGETS
    }
    return {"whole": (whole,), "whole, twice as large": (twice,), "parts": crops.DEFAULT, **near}


def whole(given: argparse.Namespace) -> report.Result:
    """The whole result."""
    cv2.setNumThreads(1)
    using, heavy = light(), detector.load("heavy")
    scenes = [
        measured(given.data, scene._replace(frames=min(scene.frames, given.frames)), using, heavy)
        for scene in SCENES
    ]
    facts = report.conditions(["openvino", "opencv-python-headless", "numpy"], threads=1)
    return {"small_px": SMALL, "conditions": facts, "scenes": scenes}


def measured(data: Path, scene: Scene, using: Detector, heavy: Detector) -> dict[str, Any]:
    """One scene: every way on its judged frames, and the running detector on all of them."""
    given = settings(GateOptions())
    sides = _running(given)
    found: dict[str, Found] = {}
    size = (0, 0)
    for number, (picture, pts, key_frame, people) in enumerate(_sights(data, scene, heavy)):
        size = picture.width, picture.height
        moment = Moment(pts, key_frame, b"native")
        judged = number % scene.step == 0
        small = _are_small(people, size, using)
        if judged:
            _judge_ways(found, using, picture, people, small)
        for name, side in sides.items():
            shown = side.step(using, picture, moment, found.setdefault(name, Found()))
            if judged:
                found[name].add(shown, people, small)
    whole = found["whole"]
    told = [each.told(name, whole) for name, each in found.items()]
    for row in told:
        print(scene.file, row, flush=True)
    truth = "labels" if scene.labelled else "heavy pass"
    counts = {"people": whole.all[1], "small": whole.small[1]}
    return {"scene": Path(scene.file).stem, "size": size, "truth": truth, **counts, "ways": told}


@dataclass(slots=True)
class Running:
    """The detector with its gate, from frame to frame."""

    given: BeliefSettings
    memory: Memory = field(default_factory=Memory)
    tracks: Any = field(default_factory=no_tracks)

    def step(self, using: Detector, picture: Picture, moment: Moment, found: Found) -> Boxes:
        """What it shows of this frame."""
        began = time.perf_counter()
        attention, belief = look_at(using, picture, moment, self.memory, self.tracks, self.given)
        found.seconds.append(time.perf_counter() - began)
        found.pixels.append(sum(look.pixels for look in attention.looks))
        self.memory, self.tracks = belief.memory, belief.tracks
        return belief.shown


def _running(given: BeliefSettings) -> dict[str, Running]:
    near = replace(given.attention.crops, zooms=ZOOMS)
    native = replace(given, attention=replace(given.attention, crops=near))
    return {"running": Running(given), "running, native": Running(native)}


def _judge_ways(
    found: dict[str, Found],
    using: Detector,
    picture: Picture,
    people: FloatArray,
    small: Sequence[bool],
) -> None:
    size, long_side = (picture.width, picture.height), using.members[0].long_side
    least = np.float32(settings(GateOptions()).calm.shown)
    for name, way in ways(size, long_side).items():
        if name not in found:  # the first sight of a size takes longer
            using.look(picture, _looks(way, people, size, long_side))
        each = found.setdefault(name, Found())
        began = time.perf_counter()
        looks = _looks(way, people, size, long_side)
        merged = seams.merge(empty(), using.look(picture, looks), looks, size, long_side)
        each.seconds.append(time.perf_counter() - began)
        each.pixels.append(sum(look.pixels for look in looks))
        each.add(merged.boxes.take(merged.boxes.scores > least), people, small)


def _looks(
    way: CropSettings | tuple[Look, ...], people: FloatArray, size: tuple[int, int], long_side: int
) -> tuple[Look, ...]:
    if isinstance(way, tuple):
        return way
    planned = crops.plan(people, _NONE, size, long_side, way)
    return (crops.whole(*size, long_side),) if planned is None else planned


def _are_small(people: FloatArray, size: tuple[int, int], using: Detector) -> list[bool]:
    scale = inner_size(*size, using.members[0].long_side)[1] / size[1]
    return [bool(height * scale <= SMALL) for height in people[:, 3] - people[:, 1]]


def _sights(
    data: Path, scene: Scene, heavy: Detector
) -> Iterator[tuple[Picture, float, bool, FloatArray]]:
    """Each frame, enlarged: picture, seconds, whether it is a key frame, the people (N, 4)."""
    path = data / "clips" / scene.file
    truth = data / "gt" / path.stem / "gt.txt" if scene.labelled else None
    clip = GateClip(path.stem, "busy", path, scene.frames, 1.0, truth, (1, scene.frames))
    labels = read_truth(clip, [0.0] * scene.frames) if scene.labelled else []
    for number, shot in enumerate(clip.shots()):
        enlarged = ROWS / shot.picture.height
        size = 2 * round(shot.picture.width * enlarged / 2), ROWS
        picture = shot.picture if enlarged == 1 else _enlarged(shot.picture, size)
        people = _NONE
        if scene.labelled:
            people = labels[number].boxes.xyxy * np.float32(enlarged)
        elif number % scene.step == 0:
            found = heavy.detect([picture])[0]
            people = found.xyxy[found.class_ids == _PERSON]
        yield picture, number / 30 if shot.pts is None else shot.pts, shot.key_frame, people


def _enlarged(picture: Picture, size: tuple[int, int]) -> Picture:
    half = size[0] // 2, size[1] // 2
    planes = (picture.y, size), (picture.u, half), (picture.v, half)
    y, u, v = (
        np.asarray(cv2.resize(plane, at, interpolation=cv2.INTER_CUBIC), np.uint8)
        for plane, at in planes
    )
    return Picture(y, u, v, picture.matrix, picture.full_range)


BENCHMARK = report.Benchmark(
    name="native",
    measure=whole,
    needs=("clips",),
    options={"frames": report.Option(600, 1, "most that are played of a scene")},
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
