"""Annotated videos of labelled clips by two checkouts, side by side, and a contact sheet of each.

    python -m tools.compare_videos BEFORE OUT --data FOLDER [--clips NAME ...] [--frames N]

BEFORE is another checkout of this repository with its own `.venv`. Each clip runs through both,
with all defaults, at the time stamps of its recording. OUT gets NAME.mp4, BEFORE on the left, and
NAME.png: frames that are evenly spaced in time, BEFORE above, each with its number. The results are
in NAME-before.jsonl and NAME-after.jsonl. The footage is not ours, so OUT must be outside this
repository.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain, zip_longest
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np

from benchmarks.truth.clips import Footage, LabelledClip, at_recorded_speed, find_clips
from framegate.models.picture import ByteArray

ROOT: Final = Path(__file__).resolve().parents[1]
CLIPS: Final = (
    "pets09-s2l1-view001-part1",
    "car-detection",
    "one-by-one-person-detection",
    "pets2001-campus",
    "highway-cdnet-part1",
    "escalator-cctv",
    "cctv-highway-overlay",
    "dashcam-solidWhiteRight",
)
_WIDTH: Final = 640  # pixels of a side of the video, and of a picture of the sheet
_PICTURES: Final = 12  # of each checkout in a sheet
_COLUMNS: Final = 3  # pictures beside each other in a sheet


def annotated(checkout: Path, footage: Footage, folder: Path, results: Path) -> Path:
    """Run a checkout on footage; return its annotated video. Raises CalledProcessError.

    results  file that gets a line of JSON for each frame
    """
    folder.mkdir()
    python = checkout / ".venv" / "bin" / "python"
    words = ("run", f"clip={footage.path}", "--http", "off", "--json", "--save", str(folder))
    with results.open("wb") as lines:
        subprocess.run(
            (str(python), "-m", "framegate", *words, "-d", str(folder / "data")),
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return folder / "clip.framegate.mp4"


def compare(clip: LabelledClip, before: Path, out: Path, most: int) -> None:
    """Write video and sheet of a clip."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        footage = at_recorded_speed(clip, folder, most)
        videos = [
            annotated(checkout, footage, folder / side, out / f"{clip.name}-{side}.jsonl")
            for side, checkout in (("before", before), ("after", ROOT))
        ]
        pairs = zip_longest(*map(_pictures, videos))
        joined = out / f"{clip.name}.mp4"
        kept: list[ByteArray] = []
        step = max(footage.frames // _PICTURES, 1)
        first = next(pairs)
        height = first[0].shape[0]
        with av.open(str(joined), "w") as output:
            rate = Fraction(footage.fps).limit_denominator(1001)
            stream = output.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = 2 * _WIDTH, height, "yuv420p"
            for number, pair in enumerate(chain([first], pairs)):
                sides = [_or_black(side, height) for side in pair]
                picture = av.VideoFrame.from_ndarray(np.hstack(sides), format="bgr24")
                output.mux(stream.encode(picture))
                if number % step == step // 2 and len(kept) < _PICTURES:
                    kept.append(np.vstack([_numbered(side, number) for side in sides]))
            output.mux(stream.encode(None))
        cv2.imwrite(str(out / f"{clip.name}.png"), sheet_of(kept))


def _pictures(path: Path) -> Iterator[ByteArray]:
    """Yield the frames of a video, BGR, `_WIDTH` pixels wide and of even height."""
    with av.open(str(path)) as video:
        for frame in video.decode(video=0):
            height = round(frame.height * _WIDTH / frame.width / 2) * 2
            yield frame.reformat(_WIDTH, height, "bgr24").to_ndarray().astype(np.uint8, copy=False)


def _or_black(picture: ByteArray | None, height: int) -> ByteArray:
    """Return the picture; a black one where a video has ended before the other."""
    if picture is None:
        return np.zeros((height, _WIDTH, 3), np.uint8)
    return picture


def _numbered(picture: ByteArray, number: int) -> ByteArray:
    """Return the picture with the number of its frame in the lower left corner."""
    drawn = picture.copy()
    at = (6, picture.shape[0] - 8)
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(drawn, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, width)
    return drawn


def sheet_of(pictures: Sequence[ByteArray]) -> ByteArray:
    """Return the pictures in rows."""
    rows = []
    for begin in range(0, len(pictures), _COLUMNS):
        row = list(pictures[begin : begin + _COLUMNS])
        row += [np.zeros_like(pictures[0])] * (_COLUMNS - len(row))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def main(words: Sequence[str] | None = None) -> int:
    """Write the videos and the sheets."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_videos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="another checkout, with its .venv")
    parser.add_argument("out", type=Path, help="folder for videos and sheets")
    parser.add_argument("--data", type=Path, required=True, help="folder of test data")
    parser.add_argument("--clips", nargs="*", default=CLIPS, help="labelled clips (eight)")
    parser.add_argument("--frames", type=int, default=240, help="of each clip (240)")
    given = parser.parse_args(words)
    if given.out.resolve().is_relative_to(ROOT):
        parser.error(
            f"{given.out} is inside {ROOT}: choose a folder outside, the footage is not ours"
        )
    given.out.mkdir(parents=True, exist_ok=True)
    for clip in find_clips(given.data, given.clips):
        compare(clip, given.before.resolve(), given.out, given.frames)
        print(f"compared: {clip.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
