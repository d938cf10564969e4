"""A clip as a camera's footage: its first 60 % to learn from, its last 35 % to judge by.

Of the first part at most 400 frames, evenly spaced, of those in which something moved; of the last
part 200, evenly spaced, and all frames that people labelled. The teacher is the frozen heavy pass.
This is the protocol of the research that the bars come from, so that figures can be held against
each other.

Classes are those of `benchmarks.truth`: any vehicle is a car, and a motorcycle is a bicycle. Only
classes of which people labelled an object in the clip are tuned and judged. People's labels teach
nothing here: the figures are those of a camera without labels.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.truth.clips import find_clips
from benchmarks.truth.labels import GROUPS, corners
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.learning.split_footage import EARLIER, GAP
from framegate.models.learning.teacher import renamed
from framegate.models.learning.tuning import Look
from framegate.stages.footage.footage import (
    Footage,
    FootageFrame,
    KnownObjects,
    evenly,
    grey_of,
    has_moved,
)
from framegate.stages.learning.camera_tuning import SIDES, raw_detector
from framegate.stages.learning.int8_version import draws, frames_at
from framegate.stages.learning.teaching import Teacher

# The clips of the research: some of its rules were chosen with their last parts in view.
CHOSE: Final = (
    "bottle-detection.mp4",
    "one-by-one-person-detection.mp4",
    "car-detection.mp4",
    "pets2001-campus.mp4",
    "pets09-s2l1-view001-part1.mp4",
    "cctv-highway-overlay.avi",
)
CROWDED: Final = ("pets2001-campus", "pets09-s2l1-view001-part1", "cctv-highway-overlay")
# All others of 300 frames or more: nothing was chosen by them.
OTHERS: Final = ("highway-cdnet-part1.avi", "kitchen-pancake.mkv")
LABELLED: Final = "pets09-s2l1-view001-part1"
_CLASS_OF: Final = {"vehicle": "car", "cycle": "bicycle"}
_GROUPED: Final = {
    coco.LABELS.index(label): coco.LABELS.index(_CLASS_OF[group])
    for label, group in GROUPS.items()
    if label in coco.LABELS
}
EARLIER_FRAMES: Final = 400
LATER_FRAMES: Final = 200
_CANDIDATES: Final = 2  # frames that are looked at for each that is wanted


@dataclass(frozen=True)
class Chosen:
    """Which frames of a clip, counted from 0, learn and judge: footage of one source."""

    path: str
    earlier: tuple[int, ...]
    later: tuple[int, ...]
    labels: Mapping[int, KnownObjects]
    source: str = "clip"

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of all of them, in order."""
        return (*self.earlier, *self.later)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.numbers)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        """Their pictures, in order; the moment of each is its number."""
        numbers = evenly(self.numbers, most)
        for number, picture in zip(numbers, frames_at(self.path, numbers), strict=True):
            yield FootageFrame(picture, self.source, float(number), self.labels.get(number))


def chosen(
    path: Path,
    labels: Mapping[int, KnownObjects],
    earlier: int = EARLIER_FRAMES,
    later: int = LATER_FRAMES,
) -> Chosen:
    """The protocol's frames of a clip. labels: of people, by number of the frame."""
    [whole] = draws({"clip": str(path)}, 10**9)
    count = len(whole.earlier) + len(whole.later)
    until, since = int(count * EARLIER), int(count * (EARLIER + GAP))
    candidates = evenly(range(until), _CANDIDATES * earlier)
    moved, last = [], None
    for number, picture in zip(candidates, frames_at(str(path), candidates), strict=True):
        grey = grey_of(picture)
        if has_moved(last, grey):
            moved.append(number)
            last = grey
    labelled = {number: known for number, known in labels.items() if since <= number < count}
    judging = sorted({*evenly(range(since, count), later), *labelled})
    return Chosen(str(path), tuple(evenly(moved, earlier)), tuple(judging), labelled)


def labels_of(data: Path, name: str) -> dict[int, KnownObjects]:
    """People's labels of a clip, by number of the frame, with COCO's class for each group."""
    [clip] = find_clips(data, [name])
    classes = tuple(_CLASS_OF.get(group, group) for group in clip.groups)
    labels = {}
    for frame in clip.frames:
        ignored = corners(frame.ignored)
        # An ignored region has no class; any will do, as a box there is never wrong.
        ids = np.zeros(len(ignored), np.int32)
        unsure = Boxes(ignored, np.ones(len(ignored), np.float32), ids)
        labels[frame.number] = KnownObjects(classes, frame.boxes, unsure)
    return labels


def grouped(boxes: Boxes) -> Boxes:
    """The boxes with the class that their group has here."""
    return renamed(boxes, _GROUPED)


def looks(footage: Footage, teacher: Teacher, sides: Sequence[int] = SIDES) -> list[Look]:
    """What teacher and light detector say of each frame."""
    detectors = {side: raw_detector(side) for side in sides}
    found = []
    for frame in footage:
        raw = {side: each.detect([frame.picture])[0] for side, each in detectors.items()}
        raw = {side: grouped(boxes) for side, boxes in raw.items()}
        said = teacher.of(frame)
        said = replace(said, sure=grouped(said.sure))
        found.append(Look(frame.source, frame.moment_s, said, raw))
    return found


def labelled_people(data: Path, most_frame: int = 124) -> dict[int, Boxes]:
    """The people of LABELLED by frame, counted from 0; MOTChallenge's own count begins at 1."""
    rows: dict[int, list[list[float]]] = defaultdict(list)
    with (data / "gt" / LABELLED / "gt.txt").open(newline="") as lines:
        for row in csv.reader(lines):
            if float(row[6]) and int(row[0]) <= most_frame:
                left, top, width, height = (float(value) for value in row[2:6])
                rows[int(row[0]) - 1].append([left, top, left + width, top + height])
    return {
        number: Boxes(
            np.array(corners, np.float32),
            np.ones(len(corners), np.float32),
            np.zeros(len(corners), np.int32),
        )
        for number, corners in rows.items()
    }
