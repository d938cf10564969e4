"""The labelled clips: which of them choose settings, their labels, and their recorded speed."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import av
import numpy as np
from av.packet import Packet

from benchmarks.harness.agreement import Tracked
from benchmarks.truth import labels
from benchmarks.truth.labels import Edges
from framegate.models.boxes import Boxes, IntArray

Role = Literal["chooses", "reports"]

# Settings may be chosen by the clips that choose only. The others report. The gate and the least
# scores were chosen before there were labels, with car-detection and one-by-one-person-detection in
# view, and the code of pictures by both and bottle-detection.
ROLES: Final[dict[str, Role]] = {
    "one-by-one-person-detection": "chooses",
    "bottle-detection": "chooses",
    "pets2001-campus": "chooses",
    "highway-cdnet-part1": "chooses",
    "kitchen-pancake": "chooses",
    "escalator-cctv": "chooses",
    "car-detection": "chooses",
    "pets09-s2l1-view001-part1": "reports",
    "mot16-04-night-1080p": "reports",
    "cctv-highway-overlay": "reports",
    "dashcam-solidWhiteRight": "reports",
}
# For the CPU time. A clip of fewer than SHORT frames is played over until it has LEAST_FRAMES.
LEAST_FRAMES: Final = 200
SHORT: Final = 150
_LESSON_FRAMES: Final = 100  # of footage for a camera's own model

_PEDESTRIAN: Final = 1
# MOTChallenge: person on vehicle, static person, distractor, reflection. A box there is not judged.
_DISTRACTORS: Final = frozenset({2, 7, 8, 12})


class NotLabelled(Exception):
    """There are no labels to judge by."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """The labels of a frame.

    number   decoded frame of the clip, from 0; `seq` of its result
    boxes    labelled objects; the class id is the place of the group in `LabelledClip.groups`
    tracks   int32 (N,), number of each object through the frames; 0: not labelled
    ignored  regions that are not judged
    """

    number: int
    boxes: Boxes
    tracks: IntArray
    ignored: tuple[Edges, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledClip:
    """A clip with labels.

    path    the clip of the data folder
    fps     frames per second of the recording; None: those of the file
    groups  groups of which every object is labelled; no other box is judged
    frames  labelled frames, ascending
    """

    name: str
    path: Path
    fps: float | None
    groups: tuple[str, ...]
    frames: tuple[LabelledFrame, ...]

    @property
    def role(self) -> Role:
        """Return whether settings may be chosen by this clip."""
        return ROLES[self.name]

    @property
    def side(self) -> int:
        """Return the longer side of the picture, pixels."""
        with av.open(str(self.path)) as container:
            picture = container.streams.video[0]
            return max(picture.width, picture.height)

    @property
    def n_labels(self) -> int:
        """Return the number of labelled objects."""
        return sum(len(frame.boxes) for frame in self.frames)

    @property
    def groups_there(self) -> frozenset[str]:
        """Return the groups that have a labelled object."""
        numbers = np.concatenate([frame.boxes.class_ids for frame in self.frames])
        return frozenset(self.groups[number] for number in np.unique(numbers))

    @property
    def has_tracks(self) -> bool:
        """Return whether objects are numbered through the frames."""
        return any(frame.tracks.any() for frame in self.frames)

    def objects(self, rows: Iterable[tuple[str, Edges, float, int]], pts: float) -> Tracked:
        """Return published objects (label, box, score, track or 0) of the groups that are judged.

        Class ids are those of the labels.
        """
        kept = [row for row in rows if labels.group(row[0]) in self.groups]
        groups = [self.groups.index(labels.group(row[0])) for row in kept]
        boxes = Boxes(
            labels.corners([row[1] for row in kept]),
            np.array([row[2] for row in kept], np.float32),
            np.array(groups, np.int32),
        )
        return Tracked(pts, boxes, np.array([row[3] for row in kept], np.int32))


def find_clips(
    data: Path, names: Sequence[str], folder: Path = labels.FOLDER
) -> list[LabelledClip]:
    """Return the labelled clips of the data folder; `names` selects some of them.

    folder  labels by eye, NAME.json

    Raises NotLabelled for a name without labels, and if there is no labelled clip.
    """
    facts = _manifest(data)
    clips = []
    for name in ROLES:
        if names and name not in names:
            continue
        clip = _find_clip(data, facts.get(name, {}), name, folder)
        if clip is not None:
            clips.append(clip)
    missing = set(names) - {clip.name for clip in clips}
    if missing:
        raise NotLabelled(
            f"--clips {' '.join(sorted(missing))}: no such labelled clip in {data}; labelled clips "
            f"are among {', '.join(ROLES)}"
        )
    if not clips:
        raise NotLabelled(f"{data}: has no clip with labels; known are {', '.join(ROLES)}")
    return clips


def _manifest(data: Path) -> dict[str, dict[str, Any]]:
    path = data / "MANIFEST.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    items = content
    if isinstance(content, dict):
        items = content["items"]
    return {item["name"]: item for item in items}


def _find_clip(data: Path, facts: dict[str, Any], name: str, folder: Path) -> LabelledClip | None:
    """Return the clip; labels by eye come before those of the data folder."""
    file = facts.get("file")
    if file is None or not (data / file).is_file():
        return None
    by_eye = folder / f"{name}.json"
    mot = data / "gt" / name / "gt.txt"
    if by_eye.is_file():
        groups, frames = read_labels(by_eye)
    elif mot.is_file():
        groups = ("person",)
        frames = _by_motchallenge(mot, facts["ground_truth"]["annotated_frames"])
    else:
        return None
    return LabelledClip(name, data / file, facts.get("dataset_fps"), groups, frames)


def read_labels(path: Path) -> tuple[tuple[str, ...], tuple[LabelledFrame, ...]]:
    """Return the labelled groups, and the labelled frames, of a file of labels by eye."""
    clip = labels.read(path)
    groups = tuple(dict.fromkeys(labels.group(name) for name in clip.classes))
    frames = []
    for frame in clip.frames:
        rows = [label.edges for label in frame.boxes]
        class_ids = [groups.index(labels.group(label.label)) for label in frame.boxes]
        tracks = np.zeros(len(rows), np.int32)
        boxes = _certain(rows, class_ids)
        frames.append(LabelledFrame(frame.frame, boxes, tracks, frame.ignore))
    return groups, tuple(frames)


def _by_motchallenge(path: Path, annotated: Sequence[int]) -> tuple[LabelledFrame, ...]:
    """Read rows of frame (from 1), track, left, top, width, height, confidence, class.

    A row of confidence 0 is no label; if it is a distractor, its box is an ignore region. PETS 2009
    has no classes (-1): every row is a person.
    """
    people: dict[int, list[tuple[int, Edges]]] = defaultdict(list)
    ignored: dict[int, list[Edges]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines):
            number = int(row[0])
            left, top, width, height = map(float, row[2:6])
            edges = (left, top, left + width, top + height)
            kind = int(float(row[7]))
            is_person = float(row[6]) != 0 and kind in (_PEDESTRIAN, -1)
            if is_person:
                people[number].append((int(row[1]), edges))
            elif kind in _DISTRACTORS:
                ignored[number].append(edges)
    first, last = annotated
    frames = []
    for number in range(first, last + 1):
        rows = people[number]
        boxes = _certain([edges for _, edges in rows], [0] * len(rows))
        tracks = np.array([track for track, _ in rows], np.int32)
        frames.append(LabelledFrame(number - 1, boxes, tracks, tuple(ignored[number])))
    return tuple(frames)


def _certain(rows: Sequence[Edges], class_ids: Sequence[int]) -> Boxes:
    scores = np.ones(len(rows), np.float32)
    return Boxes(labels.corners(rows), scores, np.array(class_ids, np.int32))


# -- Footage at its recorded speed.


@dataclass(frozen=True, slots=True)
class Footage:
    """A file that a run or a command reads.

    frames  frames of the file; a damaged file has fewer that decode
    fps     mean frames per second of its time stamps
    passes  how often the clip is played
    """

    path: Path
    frames: int
    fps: float
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Lesson:
    """Footage of a clip that a camera's own model learns from.

    judges_from  first frame of the clip that may judge this model; 0: the footage is none of the
                 labelled frames
    """

    footage: Footage
    judges_from: int


def at_recorded_speed(clip: LabelledClip, folder: Path, most: int | None = None) -> Footage:
    """Return the labelled frames, and enough for the CPU time, with the recording's time stamps.

    The file of the data folder is used where it is right; otherwise its packets are written into
    `folder` with other time stamps. No picture is encoded.

    most  frames, where fewer are wanted
    """
    packets = _packets(clip.path)
    wanted = most or max(LEAST_FRAMES, clip.frames[-1].number + 1)
    is_right = clip.fps is None and most is None and len(packets) >= SHORT
    if is_right:
        return Footage(clip.path, len(packets), _rate(packets))
    return _remuxed(clip, folder / clip.path.name, packets, 0, wanted)


def lesson(clip: LabelledClip, folder: Path) -> Lesson:
    """Return the frames after the labels, from a key frame on, or else the first half of the clip.

    Raises NotLabelled if no labels are left to judge by.
    """
    packets = _packets(clip.path)
    path = folder / f"lesson-{clip.path.name}"
    last = clip.frames[-1].number
    after = [place for place, packet in enumerate(packets) if packet.is_keyframe and place > last]
    if after and len(packets) - after[0] >= _LESSON_FRAMES:
        rest = len(packets) - after[0]
        return Lesson(_remuxed(clip, path, packets, after[0], rest), 0)
    half = len(packets) // 2
    if last < half or half < _LESSON_FRAMES:
        raise NotLabelled(f"{clip.name} has too few frames beside those that judge")
    return Lesson(_remuxed(clip, path, packets, 0, half), half)


def _packets(path: Path) -> list[Packet[av.VideoStream]]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def _rate(packets: Sequence[Packet[av.VideoStream]]) -> float:
    """Return frames per second by the time stamps."""
    stamps = [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
    return (len(stamps) - 1) / (max(stamps) - min(stamps))


def _remuxed(
    clip: LabelledClip,
    path: Path,
    packets: Sequence[Packet[av.VideoStream]],
    first: int,
    wanted: int,
) -> Footage:
    """Write the packets from `first` on with the time stamps of the recording.

    Footage that is too short is repeated. The last pass ends with the packet, in the order of
    decoding, with which the wanted frames are complete.
    """
    file_fps = _rate(packets)
    fps = clip.fps or file_fps
    slower = Fraction(file_fps / fps).limit_denominator(1000)
    stamps = sorted(packet.pts or 0 for packet in packets[first:])
    begin = stamps[0]
    length = round((stamps[-1] - begin) * len(stamps) / (len(stamps) - 1))
    frames = 0
    passes = 0
    with av.open(str(path), "w") as output:
        stream = None
        while frames < wanted:
            with av.open(str(clip.path)) as given:
                track = given.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(track)
                again = [packet for packet in given.demux(track) if packet.size][first:]
                for packet in again[: _needed(again, wanted - frames)]:
                    shift = passes * length - begin
                    packet.pts = round(((packet.pts or 0) + shift) * slower)
                    packet.dts = round(((packet.dts or 0) + shift) * slower)
                    packet.duration = round((packet.duration or 0) * slower)
                    packet.stream = stream
                    output.mux(packet)
                    frames += 1
            passes += 1
    return Footage(path, frames, fps, passes)


def _needed(packets: Sequence[Packet[av.VideoStream]], frames: int) -> int:
    """Return how many packets, in the order of decoding, contain the first frames."""
    if frames >= len(packets):
        return len(packets)
    order = sorted(range(len(packets)), key=lambda place: packets[place].pts or 0)
    return max(order[:frames]) + 1
