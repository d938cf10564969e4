"""Record what detect gives the stage windows on labelled clips: objects and candidates, no pixels.

    python -m tests.stages.windows.record DATA [CLIP ...]

writes recorded/CLIP.msgpack.xz: the names of the models, and for each frame its time stamp, objects
and candidates, each as (track, label, score, box, origin), and the scores above which candidates of
these labels may appear. The models name the precision, which a trial chooses on each machine and
by which F1 differs; for one precision all recordings are equal.
"""

from __future__ import annotations

import argparse
import lzma
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.truth.clips import at_recorded_speed, find_clips
from framegate import testing
from framegate.pipeline.contracts.results import Object, Origin
from framegate.stages.detect import Detect
from framegate.stages.detections import Detections

FOLDER: Final = Path(__file__).parent / "recorded"
CLIPS: Final = ("escalator-cctv", "dashcam-solidWhiteRight", "pets09-s2l1-view001-part1")
Box = tuple[float, float, float, float]
Row = tuple[int | None, str, float, Box, Origin]
Frame = tuple[float | None, list[Row], list[Row], dict[str, float]]
Recording = tuple[tuple[str, ...], list[Frame]]


def rows(objects: tuple[Object, ...]) -> list[Row]:
    return [(each.track, each.label, each.score, each.box, each.origin) for each in objects]


def recorded(clip: str) -> list[tuple[float | None, Detections]]:
    """Return the time stamp of each frame, and what detect gave."""
    data = lzma.decompress((FOLDER / f"{clip}.msgpack.xz").read_bytes())
    _, frames = msgspec.msgpack.decode(data, type=Recording)
    return [(pts, _detections(*given)) for pts, *given in frames]


def _detections(objects: list[Row], candidates: list[Row], least: dict[str, float]) -> Detections:
    return Detections(
        "detected",
        "whole",
        "changed",
        _objects(objects),
        (),
        candidates=_objects(candidates),
        least=least,
    )


def _objects(found: list[Row]) -> tuple[Object, ...]:
    return tuple(Object(track, label, 0, score, box, by) for track, label, score, box, by in found)


def record(data: Path, name: str) -> None:
    (clip,) = find_clips(data, [name])
    last = clip.frames[-1].number
    frames: list[Frame] = []
    models: tuple[str, ...] = ()
    with (
        tempfile.TemporaryDirectory() as folder,
        testing.Harness(Detect, before="decode") as detect,
    ):
        footage = at_recorded_speed(clip, Path(folder), most=last + 1)
        for number, frame in enumerate(testing.frames(footage.path)):
            if number > last:
                break
            (output,) = detect.feed([frame])
            models = output.models
            least = dict(output.least)
            given = frame.item.record.pts, rows(output.objects), rows(output.candidates), least
            frames.append(given)
    file = FOLDER / f"{name}.msgpack.xz"
    recording: Recording = models, frames
    file.write_bytes(lzma.compress(msgspec.msgpack.encode(recording)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("clips", nargs="*", default=CLIPS)
    given = parser.parse_args()
    for clip in given.clips:
        record(given.data, clip)


if __name__ == "__main__":
    main()
