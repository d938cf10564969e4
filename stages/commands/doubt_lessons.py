"""What doubt learns from: footage as the light path sees it, and what the heavy pass says of it.

Footage that may be learned from: three clips that are CC BY 4.0, and clips composed from the 128
photographs of COCO128.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.picture import Picture
from framegate.models.tracking.bytetrack import no_tracks
from framegate.models.tracking.calm import settings_for as calm_settings
from framegate.models.training.compose_footage import FPS, Photograph, compose, read_photographs
from framegate.pipeline.heavy.questions import Seen
from framegate.pipeline.source import Request
from framegate.stages.decode import FileSource
from framegate.stages.detect import detections_of
from framegate.stages.detect.attention import Moment
from framegate.stages.detect.belief import BeliefSettings
from framegate.stages.detect.look import look_at, settings_for
from framegate.stages.detect.memory import Memory
from framegate.stages.detect.options import GateOptions
from framegate.stages.detections import Detections, as_seen
from framegate.stages.planes import as_picture

CLIPS: Final = ("bottle-detection", "car-detection", "one-by-one-person-detection")
COMPOSED: Final = tuple(f"composed-{seed}" for seed in range(1000, 1024))
_COMPOSED_FRAMES: Final = 90
_KEY_EVERY: Final = 12  # frames of composed footage
_KEY: Final = b"doubt"
Shot = tuple[Picture, float | None, bool]


class Sight(msgspec.Struct, frozen=True, array_like=True):
    """A frame: what detect says of it, the source's clock, what the heavy pass sees."""

    found: Detections
    now_s: float
    seen: Seen


def lessons(data: Path, folder: Path) -> dict[str, list[Sight]]:
    """Every clip; made and kept in `folder` where it is not there yet: about ten minutes.

    data  a folder with clips/, images/coco128 and gt/coco128.json
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in (*CLIPS, *COMPOSED) if not (folder / f"{name}.msgpack").exists()]
    if missing:
        photographs = read_photographs(data / "images" / "coco128", data / "gt" / "coco128.json")
        light, heavy = light_detector(), detector.load("heavy")
        for name in missing:
            sights = _lesson(_footage(name, data, photographs), light, heavy)
            (folder / f"{name}.msgpack").write_bytes(msgspec.msgpack.encode(sights))
            print(name, len(sights), flush=True)
    return {
        name: msgspec.msgpack.decode((folder / f"{name}.msgpack").read_bytes(), type=list[Sight])
        for name in (*CLIPS, *COMPOSED)
    }


def light_detector() -> Detector:
    """As detect has it with its default options, on one thread."""
    candidate = calm_settings(policy.load("light").min_score)[0].candidate
    return detector.load("light", None, 1, min_score=candidate)


def watched(
    shots: Iterable[Shot], light: Detector, settings: BeliefSettings, key: bytes = _KEY
) -> Iterator[tuple[Picture, Detections, float]]:
    """Each frame, what detect says of it, and the source's clock."""
    memory, tracks = Memory(), no_tracks()
    for picture, pts, key_frame in shots:
        moment = Moment(pts, key_frame, key)
        attention, belief = look_at(light, picture, moment, memory, tracks, settings)
        memory, tracks = belief.memory, belief.tracks
        yield picture, detections_of(attention, belief, light.models), attention.clock_s


def _lesson(shots: Iterable[Shot], light: Detector, heavy: Detector) -> list[Sight]:
    settings = settings_for(GateOptions(), policy.load("light"))
    return [
        Sight(found, now_s, as_seen(heavy.detect([picture])[0], ()))
        for picture, found, now_s in watched(shots, light, settings)
    ]


def _footage(name: str, data: Path, photographs: Sequence[Photograph]) -> Iterator[Shot]:
    if name in CLIPS:
        source = FileSource(Request(str(data / "clips" / f"{name}.mp4")))
        try:
            for frame in source.frames():
                buffer = memoryview(bytearray(frame.nbytes))
                frame.write(buffer)
                yield as_picture(buffer, frame.form), frame.pts, frame.key_frame
        finally:
            source.close()
        return
    pictures = compose(photographs, int(name.rpartition("-")[2]), _COMPOSED_FRAMES)
    for number, picture in enumerate(pictures):
        yield picture, number / FPS, number % _KEY_EVERY == 0
