"""The clips that the gate is judged on, in three groups, and their pictures one after another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.harness.clips import NoClip, rate
from framegate.models.picture import Picture, as_picture
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.file import FileSource
from tests.support.footage import repeat

Group = Literal["quiet", "busy", "moving"]

# Quiet: a still camera, little moves at a time. Busy: a still camera, much moves, or all the time.
GROUPS: dict[str, Group] = {
    "bottle-detection.mp4": "quiet",
    "one-by-one-person-detection.mp4": "quiet",
    "pets2001-campus.mp4": "quiet",
    "derived/idle-room.mp4": "quiet",
    "derived/one-by-one-hevc.mp4": "quiet",
    "car-detection.mp4": "busy",
    "derived/car-detection-vfr.mp4": "busy",
    "pets09-s2l1-view001-part1.mp4": "busy",
    "highway-cdnet-part1.avi": "busy",
    "cctv-highway-overlay.avi": "busy",
    "escalator-cctv.avi": "busy",
    "dashcam-solidWhiteRight.mp4": "moving",
    "kitchen-pancake.mkv": "moving",
}
# The quiet clips whose means the result tells: four scenes, each once.
SCENES = ("bottle-detection", "one-by-one-person-detection", "pets2001-campus", "idle-room")
LOOPED = {"idle-room": 2000}  # played over until it has so many frames
LEAST_FRAMES = 150
WARM_UP = 100


class ClipFrame(NamedTuple):
    """One frame. The picture is valid until the next one is taken."""

    picture: Picture
    pts: float | None
    key_frame: bool


@dataclass(frozen=True, slots=True)
class GateClip:
    """A clip to judge.

    frames     so many are judged, from the first on
    fps        frames a second of video, in the mean
    truth      gt.txt in MOTChallenge format, where somebody labelled it
    annotated  first and last frame that the labels cover and that is judged, counted from 1
    """

    name: str
    group: Group
    path: Path
    frames: int
    fps: float
    truth: Path | None = None
    annotated: tuple[int, int] = (0, 0)

    def shots(self) -> Iterator[ClipFrame]:
        """Its frames as the pipeline decodes them. SourceFault as stages.decode."""
        source = FileSource(Request(str(self.path)))
        buffer = memoryview(b"")
        try:
            for number, frame in enumerate(source.frames()):
                if number == self.frames:
                    return
                if len(buffer) != frame.nbytes:
                    buffer = memoryview(bytearray(frame.nbytes))
                frame.write(buffer)
                yield ClipFrame(as_picture(buffer, frame.form), frame.pts, frame.key_frame)
        finally:
            source.close()


def find_clips(data: Path, names: Sequence[str], most: int, folder: Path) -> list[GateClip]:
    """The clips of the data folder with LEAST_FRAMES or more, `most` frames of each.

    names   some of them; none: all
    folder  where those that are played over are put together

    Raises NoClip for a name that is not there.
    """
    facts = _manifest(data)
    found = []
    for file, group in GROUPS.items():
        path = data / "clips" / file
        if not path.is_file() or (names and path.stem not in names):
            continue
        wanted = LOOPED.get(path.stem)
        if wanted is not None:
            path = _played_over(path, folder, wanted)
        played = _count(path, max(wanted or most, LEAST_FRAMES))
        if played >= LEAST_FRAMES:
            frames = min(played, wanted or most)
            found.append(_clip(path, group, frames, facts.get(path.stem, {}), data))
    if missing := set(names) - {clip.name for clip in found}:
        raise NoClip(f"{data / 'clips'}: no clip to judge named {', '.join(sorted(missing))}")
    if not found:
        raise NoClip(f"{data / 'clips'} has none of {', '.join(GROUPS)}")
    return found


def _manifest(data: Path) -> dict[str, dict[str, object]]:
    path = data / "MANIFEST.json"
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))
    return {item["name"]: item for item in (told["items"] if isinstance(told, dict) else told)}


def _clip(path: Path, group: Group, frames: int, facts: dict[str, object], data: Path) -> GateClip:
    truth = data / "gt" / path.stem / "gt.txt"
    labelled = facts.get("ground_truth")
    if not (truth.is_file() and isinstance(labelled, dict)):
        return GateClip(path.stem, group, path, frames, rate(path))
    first, last = labelled["annotated_frames"]
    return GateClip(path.stem, group, path, frames, rate(path), truth, (first, min(last, frames)))


def _played_over(path: Path, folder: Path, frames: int) -> Path:
    made = folder / path.name
    if not made.is_file():
        repeat(path, made, -(-frames // _count(path, frames)))
    return made


def _count(path: Path, most: int) -> int:
    """Frames that decode, up to `most`."""
    source = FileSource(Request(str(path)))
    try:
        return sum(1 for _ in zip(range(most), source.frames(), strict=False))
    finally:
        source.close()
