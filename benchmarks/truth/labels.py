"""Labels by eye of single frames of a clip: the file, its checks, and how two labellings differ.

LABELS.md has the protocol and the format. Coordinates are pixels of the source: left, top, right,
bottom. Frames have the number `seq` of Framegate's results: decoded frames, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from framegate.models import coco, matching
from framegate.models.boxes import Boxes, FloatArray, area, iou

FOLDER: Final = Path(__file__).parent / "labels"
PROTOCOL: Final = 1
NUMBERING: Final = "seq: decoded frames, counted from 0"
LEAST_SIDE: Final = 12.0  # pixels of the longer side; a smaller object is an ignore region
DUPLICATE: Final = 0.8  # IoU above which two labels of a frame are one object
COVERED: Final = 0.5  # share of a box inside ignore regions from which it is not judged

# `vehicle` is for a car, bus or truck that is too small to name.
GROUPS: Final = {
    "car": "vehicle",
    "bus": "vehicle",
    "truck": "vehicle",
    "vehicle": "vehicle",
    "bicycle": "cycle",
    "motorcycle": "cycle",
}
CLASSES: Final = (*coco.LABELS, "vehicle")
# The classes that are labelled in every clip.
EVERYWHERE: Final = (
    "person", "car", "bus", "truck", "vehicle", "bicycle", "motorcycle", "train", "boat",
    "bird", "cat", "dog", "horse",
)  # fmt: skip

Edges = tuple[float, float, float, float]
"""Left, top, right and bottom of a box."""


class LabelsInvalid(Exception):
    """The labels are incomplete or wrong; the message has one line for each fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class ObjectLabel(msgspec.Struct, frozen=True, array_like=True):
    """An object: its class, and the box around what is visible of it."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def edges(self) -> Edges:
        """Return left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom


class FrameLabels(msgspec.Struct, frozen=True):
    """The labels of a frame: all objects of the file's classes, and regions not to be judged."""

    frame: int
    boxes: tuple[ObjectLabel, ...]
    ignore: tuple[Edges, ...]


class ClipLabels(msgspec.Struct, frozen=True):
    """The labels of a clip.

    sha256   digest of the clip's file
    classes  classes of which every object is labelled; a box of another class is not judged
    frames   labelled frames, ascending; other frames are unlabelled
    """

    protocol: int
    clip: str
    sha256: str
    width: int
    height: int
    numbering: str
    classes: tuple[str, ...]
    frames: tuple[FrameLabels, ...]


def group(label: str) -> str:
    """Return the group of a class, in which labels and boxes are matched: often itself."""
    return GROUPS.get(label, label)


def read(path: Path) -> ClipLabels:
    """Read a file of labels. Raises LabelsInvalid."""
    try:
        labels = msgspec.json.decode(path.read_bytes(), type=ClipLabels)
    except msgspec.DecodeError as error:
        raise LabelsInvalid([f"{path}: {error}"]) from error
    check(labels, str(path))
    return labels


def write(path: Path, labels: ClipLabels) -> None:
    """Write labels with one line for each frame. Raises LabelsInvalid and writes nothing."""
    check(labels, labels.clip)
    fields = msgspec.to_builtins(labels)
    frames = fields.pop("frames")
    head = [f"  {_json(name)}: {_json(value)}," for name, value in fields.items()]
    rows = ",\n".join(f"    {_json(frame)}" for frame in frames)
    text = "\n".join(["{", *head, '  "frames": [', rows, "  ]", "}", ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def check(labels: ClipLabels, where: str) -> None:
    """Raise LabelsInvalid with every fault, if the labels have one."""
    faults = [f"{where}: {fault}" for fault in _head_faults(labels)]
    for frame in labels.frames:
        place = f"{where}, frame {frame.frame}"
        faults += [f"{place}: {fault}" for fault in _frame_faults(labels, frame)]
    if faults:
        raise LabelsInvalid(faults)


def _head_faults(labels: ClipLabels) -> Iterator[str]:
    if labels.protocol != PROTOCOL:
        yield f"the protocol is version {labels.protocol}; this program reads {PROTOCOL}"
    if labels.numbering != NUMBERING:
        yield f"numbering must be {NUMBERING!r}, got {labels.numbering!r}"
    for name in labels.classes:
        if name not in CLASSES:
            yield f"unknown class {name!r} in classes; allowed are vehicle and COCO's 80 names"
    numbers = [frame.frame for frame in labels.frames]
    if numbers != sorted(set(numbers)) or min(numbers, default=0) < 0:
        yield "frame numbers must ascend from 0 or more, each once"


def _frame_faults(labels: ClipLabels, frame: FrameLabels) -> Iterator[str]:
    for label in frame.boxes:
        name = f"{label.label} {shown(label.edges)}"
        if label.label not in labels.classes:
            yield f"{name}: the class is not labelled in this clip: {', '.join(labels.classes)}"
        yield from _box_faults(labels, name, label.edges)
        longer = max(label.right - label.left, label.bottom - label.top)
        if longer < LEAST_SIDE:
            yield f"{name}: the longer side is below {LEAST_SIDE:g} px; make it an ignore region"
    for edges in frame.ignore:
        yield from _box_faults(labels, f"ignore {shown(edges)}", edges)
    yield from _duplicates(frame.boxes)


def _box_faults(labels: ClipLabels, name: str, edges: Edges) -> Iterator[str]:
    left, top, right, bottom = edges
    is_inside = left >= 0 and top >= 0 and right <= labels.width and bottom <= labels.height
    if not is_inside:
        yield f"{name}: the box is outside the picture of {labels.width} x {labels.height}"
    if left >= right or top >= bottom:
        yield f"{name}: left must be less than right, and top less than bottom"


def _duplicates(boxes: Sequence[ObjectLabel]) -> Iterator[str]:
    overlap = iou(corners([label.edges for label in boxes]), corners([b.edges for b in boxes]))
    for row, column in np.argwhere(np.triu(overlap, 1) > DUPLICATE):
        first, second = boxes[row], boxes[column]
        if group(first.label) == group(second.label):
            yield (
                f"{first.label} {shown(first.edges)} and {second.label} {shown(second.edges)} "
                f"have an IoU of {overlap[row, column]:.2f}: keep one of them"
            )


def shown(edges: Edges) -> str:
    """Return a box as a decisions file has it."""
    return " ".join(f"{edge:g}" for edge in edges)


def corners(boxes: Sequence[Edges]) -> FloatArray:
    """Return boxes as float32 (N, 4)."""
    return np.array(boxes, np.float32).reshape(-1, 4)


def as_boxes(labels: Sequence[ObjectLabel]) -> Boxes:
    """Return labels as boxes with score 1; the class ids are those of the groups in CLASSES."""
    names = [_group_id(label.label) for label in labels]
    edges = corners([label.edges for label in labels])
    return Boxes(edges, np.ones(len(labels), np.float32), np.array(names, np.int32))


def _group_id(label: str) -> int:
    name = group(label)
    if name == "cycle":
        name = "bicycle"
    return CLASSES.index(name)


def is_ignored(boxes: FloatArray, regions: Sequence[Edges]) -> list[bool]:
    """Return for each box (N, 4) whether an ignore region covers at least half of it."""
    areas = area(boxes)
    most = np.zeros(len(boxes), np.float32)
    for left, top, right, bottom in regions:
        inner = boxes.copy()
        inner[:, :2] = np.maximum(inner[:, :2], (left, top))
        inner[:, 2:] = np.minimum(inner[:, 2:], (right, bottom))
        most = np.maximum(most, area(inner))
    covered: list[bool] = ((most >= COVERED * areas) & (areas > 0)).tolist()
    return covered


# -- Two labellings of the same frames.


@dataclass(slots=True)
class Disagreement:
    """The labels of one group in two labellings.

    both         objects that both have, matched at an IoU of .5
    only_a       objects that only the first has; also not in an ignore region of the second
    only_b       the same for the second
    ignored      objects of one that the other ignores
    renamed      objects of `both` with two classes, such as car and truck
    ious         IoU of each object of `both`
    """

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    ignored: int = 0
    renamed: int = 0
    ious: list[float] = field(default_factory=list)

    @property
    def mean_iou(self) -> float | None:
        """Return the mean IoU of the matched objects, or None without any."""
        if not self.ious:
            return None
        return sum(self.ious) / len(self.ious)

    @property
    def f1(self) -> float | None:
        """Return the F1 of one labelling against the other, or None if neither has an object."""
        total = 2 * self.both + self.only_a + self.only_b
        if not total:
            return None
        return 2 * self.both / total


def compare(a: ClipLabels, b: ClipLabels) -> tuple[list[int], dict[str, Disagreement]]:
    """Return the frames that both have, and the disagreement by group.

    Only classes that both label count. Raises LabelsInvalid if the labellings are of two clips, or
    have no frame in common.
    """
    if (a.clip, a.sha256) != (b.clip, b.sha256):
        raise LabelsInvalid([f"the labels are of two clips: {a.clip} and {b.clip}"])
    others = {frame.frame: frame for frame in b.frames}
    shared = [frame for frame in a.frames if frame.frame in others]
    if not shared:
        raise LabelsInvalid([f"the labels of {a.clip} have no frame in common"])
    classes = set(a.classes) & set(b.classes)
    groups: dict[str, Disagreement] = {}
    for frame in shared:
        _compare_frame(frame, others[frame.frame], classes, groups)
    return [frame.frame for frame in shared], groups


def _compare_frame(
    a: FrameLabels, b: FrameLabels, classes: set[str], groups: dict[str, Disagreement]
) -> None:
    ours = [label for label in a.boxes if label.label in classes]
    theirs = [label for label in b.boxes if label.label in classes]
    worth = matching.overlaps(as_boxes(ours), as_boxes(theirs))
    rows, columns = matching.optimal(worth)
    for row, column in zip(rows, columns, strict=True):
        counts = groups.setdefault(group(ours[row].label), Disagreement())
        counts.both += 1
        counts.renamed += ours[row].label != theirs[column].label
        counts.ious.append(float(worth[row, column]))
    for label in _unmatched(ours, rows.tolist()):
        counts = groups.setdefault(group(label.label), Disagreement())
        if is_ignored(corners([label.edges]), b.ignore)[0]:
            counts.ignored += 1
        else:
            counts.only_a += 1
    for label in _unmatched(theirs, columns.tolist()):
        counts = groups.setdefault(group(label.label), Disagreement())
        if is_ignored(corners([label.edges]), a.ignore)[0]:
            counts.ignored += 1
        else:
            counts.only_b += 1


def _unmatched(labels: Sequence[ObjectLabel], matched: Sequence[int]) -> list[ObjectLabel]:
    return [label for row, label in enumerate(labels) if row not in matched]
