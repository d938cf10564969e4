"""Visits of the clips, labelled by eye: the file, its checks, and which tracks show which visit.

LABELS.md has the protocol and the format. Coordinates are pixels of the source: left, top, right,
bottom. Frames have the number `seq` of Framegate's results: decoded frames, counted from 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from benchmarks.truth.labels import (
    CLASSES,
    NUMBERING,
    Edges,
    LabelsInvalid,
    corners,
    shown,
)
from framegate.models.boxes import FloatArray, row_iou

FOLDER: Final = Path(__file__).parent / "labels"
SECOND_PASS: Final = Path(__file__).parent / "second_pass"
PROTOCOL: Final = 1
# A track that is off by more shows another object, or only a part of this one.
LEAST_IOU: Final = 0.3
LEAST_SHARE: Final = 0.5  # of the frames of a track

Answer = Literal["yes", "no", "unsure"]
Direction = Literal["left", "right", "towards", "away", "none", "unsure"]
Colour = Literal[
    "black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
    "unsure",
]  # fmt: skip
DIRECTIONS: Final[tuple[str, ...]] = get_args(Direction)
COLOURS: Final[tuple[str, ...]] = get_args(Colour)
ANSWERS: Final[tuple[str, ...]] = get_args(Answer)
UNSURE: Final = "unsure"
NO_LANE: Final = "none"


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """The box of an object in one frame."""

    frame: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def edges(self) -> Edges:
        """Return left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom


class Presence(msgspec.Struct, frozen=True):
    """An object from its first to its last frame.

    anchors  boxes in ascending frames, the first and the last frame included; between two anchors
             the box moves evenly
    """

    anchors: tuple[Anchor, ...]

    @property
    def first(self) -> int:
        """Return the first frame."""
        return self.anchors[0].frame

    @property
    def last(self) -> int:
        """Return the last frame."""
        return self.anchors[-1].frame

    def box(self, frame: int) -> Edges:
        """Return the box in a frame from `first` to `last`."""
        place = bisect_right(self.anchors, frame, key=lambda anchor: anchor.frame)
        before = self.anchors[place - 1]
        if before.frame == frame:
            return before.edges
        after = self.anchors[place]
        part = (frame - before.frame) / (after.frame - before.frame)
        left, top, right, bottom = (
            (1 - part) * old + part * new
            for old, new in zip(before.edges, after.edges, strict=True)
        )
        return left, top, right, bottom


class LabelledVisit(Presence, frozen=True, kw_only=True):
    """A visit: a real object, and what a person sees of it.

    visit      number in the clip, from 1
    kind       a class of COCO, or `vehicle` if it is too small to name
    direction  main direction of its way in the picture; none: it stays where it is
    lane       lane or side of the scene, a name of the clip's `lanes`; none: the clip has no lanes
    stops      whether it is still for 2 s or longer
    colour     main colour of the upper clothes, or of the body of a vehicle
    bag        whether a person has a bag, a rucksack or a suitcase
    group      whether a person walks or stands together with others
    """

    visit: int
    kind: str
    direction: Direction
    lane: str
    stops: Answer
    colour: Colour
    bag: Answer
    group: Answer


class VisitLabels(msgspec.Struct, frozen=True):
    """The labelled visits of a clip.

    sha256  digest of the clip's file
    frames  frames of the clip
    fps     frames per second of the recording
    lanes   names of its lanes or sides
    visits  by first frame
    unsure  objects that are not judged: too small, or doubtful whether they are an object
    """

    protocol: int
    clip: str
    sha256: str
    width: int
    height: int
    numbering: str
    frames: int
    fps: float
    lanes: tuple[str, ...]
    visits: tuple[LabelledVisit, ...]
    unsure: tuple[Presence, ...]


ATTRIBUTES: Final = ("kind", "direction", "lane", "stops", "colour", "bag", "group")


def read(path: Path) -> VisitLabels:
    """Read a file of labels. Raises LabelsInvalid."""
    try:
        labels = msgspec.json.decode(path.read_bytes(), type=VisitLabels)
    except msgspec.DecodeError as error:
        raise LabelsInvalid([f"{path}: {error}"]) from error
    check(labels, str(path))
    return labels


def read_all(folder: Path = FOLDER) -> dict[str, VisitLabels]:
    """Read the labels of every clip, by its name. Raises LabelsInvalid."""
    return {path.stem: read(path) for path in sorted(folder.glob("*.json"))}


def write(path: Path, labels: VisitLabels) -> None:
    """Write labels with one line for each visit. Raises LabelsInvalid and writes nothing."""
    check(labels, labels.clip)
    fields = msgspec.to_builtins(labels)
    lines = [f"  {_json(name)}: {_json(value)}," for name, value in _head(fields)]
    for name in ("visits", "unsure"):
        rows = ",\n".join(f"    {_json(row)}" for row in fields[name])
        lines += [f'  "{name}": [', rows, "  ],"]
    lines[-1] = "  ]"
    text = "\n".join(["{", *(line for line in lines if line), "}", ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _head(fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if name not in ("visits", "unsure"):
            yield name, value


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def check(labels: VisitLabels, where: str) -> None:
    """Raise LabelsInvalid with every fault, if the labels have one."""
    faults = [f"{where}: {fault}" for fault in _head_faults(labels)]
    for visit in labels.visits:
        place = f"{where}, visit {visit.visit}"
        faults += [f"{place}: {fault}" for fault in _attribute_faults(labels, visit)]
        faults += [f"{place}: {fault}" for fault in _anchor_faults(labels, visit)]
    for number, presence in enumerate(labels.unsure, 1):
        place = f"{where}, unsure object {number}"
        faults += [f"{place}: {fault}" for fault in _anchor_faults(labels, presence)]
    if faults:
        raise LabelsInvalid(faults)


def _head_faults(labels: VisitLabels) -> Iterator[str]:
    if labels.protocol != PROTOCOL:
        yield f"the protocol is version {labels.protocol}; this program reads {PROTOCOL}"
    if labels.numbering != NUMBERING:
        yield f"numbering must be {NUMBERING!r}, got {labels.numbering!r}"
    if labels.fps <= 0:
        yield f"fps must be above 0, got {labels.fps}"
    numbers = [visit.visit for visit in labels.visits]
    if numbers != sorted(set(numbers)) or min(numbers, default=1) < 1:
        yield "visit numbers must ascend from 1 or more, each once"


def _attribute_faults(labels: VisitLabels, visit: LabelledVisit) -> Iterator[str]:
    if visit.kind not in CLASSES:
        yield f"unknown kind {visit.kind!r}; allowed are vehicle and COCO's 80 names"
    lanes = (*(labels.lanes or (NO_LANE,)), UNSURE)
    if visit.lane not in lanes:
        yield f"lane must be any of {', '.join(lanes)}, got {visit.lane!r}"
    if visit.kind != "person" and (visit.bag, visit.group) != ("no", "no"):
        yield f"a {visit.kind} must have bag no and group no; they are attributes of people"


def _anchor_faults(labels: VisitLabels, presence: Presence) -> Iterator[str]:
    if not presence.anchors:
        yield "it has no anchor; at least one box is needed"
        return
    numbers = [anchor.frame for anchor in presence.anchors]
    if numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= labels.frames:
        yield f"frames of anchors must ascend from 0 to {labels.frames - 1}, each once"
    for anchor in presence.anchors:
        left, top, right, bottom = anchor.edges
        is_across = 0 <= left < right <= labels.width
        if not is_across or not 0 <= top < bottom <= labels.height:
            yield (
                f"frame {anchor.frame}: box {shown(anchor.edges)} is empty or outside the picture "
                f"of {labels.width} x {labels.height}"
            )


# -- Which track of a run shows which visit.

Track = Mapping[int, Edges]
"""Box of a tracked object by frame."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a track shows.

    visit   number of the visit; None: it shows none, so it is a false object
    unsure  it shows an object that is not judged
    frames  frames in which both have the object
    """

    visit: int | None
    unsure: bool
    frames: int

    @property
    def is_judged(self) -> bool:
        """Return whether the track counts: it shows a visit, or it is false."""
        return not self.unsure


def match(labels: VisitLabels, tracks: Mapping[int, Track]) -> dict[int, Match]:
    """Return what each track shows.

    A track shows the object that overlaps it (IoU of at least .3) in most frames, if these are at
    least half of the frames of the track. Several tracks can show the same visit: fragments of it.
    """
    objects: list[tuple[int | None, Presence]] = [(visit.visit, visit) for visit in labels.visits]
    objects += [(None, presence) for presence in labels.unsure]
    return {number: _match(objects, track) for number, track in tracks.items()}


def _match(objects: Sequence[tuple[int | None, Presence]], track: Track) -> Match:
    best = Match(None, False, 0)
    for number, presence in objects:
        frames = _shared_frames(presence, track)
        if frames > best.frames:
            best = Match(number, number is None, frames)
    if best.frames < LEAST_SHARE * len(track):
        return Match(None, False, 0)
    return best


def _shared_frames(presence: Presence, track: Track) -> int:
    frames = [frame for frame in track if presence.first <= frame <= presence.last]
    theirs = _corners([presence.box(frame) for frame in frames])
    ours = _corners([track[frame] for frame in frames])
    return int((row_iou(ours, theirs) >= LEAST_IOU).sum())


def _corners(boxes: Sequence[Edges]) -> FloatArray:
    return corners(boxes)


def longest(matches: Mapping[int, Match]) -> dict[int, int]:
    """Return for each visit that a track shows the track with most shared frames.

    The other tracks of the visit are its fragments.
    """
    best: dict[int, int] = {}
    for track, matched in matches.items():
        if matched.visit is None:
            continue
        other = best.get(matched.visit)
        if other is None or matched.frames > matches[other].frames:
            best[matched.visit] = track
    return best
