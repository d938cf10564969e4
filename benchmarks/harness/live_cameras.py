"""RTSP cameras for the live benchmark: a clip at 10 frames/s, each camera with its own phase."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.packet import Packet
from av.video.frame import PictureType

from benchmarks.harness.camera_server import CameraServer
from benchmarks.harness.process_tree import Usage, usage

FPS = 10
GOP = 20
SIZES = {360: (640, 360), 1080: (1920, 1080)}
_SECONDS = 30.0  # at most so much of the clip is shown, again and again
_X264 = {
    "preset": "veryfast",
    "g": str(GOP),
    "keyint_min": str(GOP),
    "sc_threshold": "0",
    "bf": "0",
}


def make_cameras(clip: Path, folder: Path, count: int) -> None:
    """Write what `count` cameras show at each height: the clip at its own speed, 10 frames/s.

    It is encoded once a height, without B-frames; camera n begins n key frames later.
    """
    for height, size in SIZES.items():
        template = folder / f"show-{height}.mkv"
        packets = _encoded(clip, template, size)
        groups = [packets[at : at + GOP] for at in range(0, len(packets) - GOP + 1, GOP)]
        for number in range(count):
            turn = number % len(groups)
            _write(folder / name(number, height), groups[turn:] + groups[:turn], template)


def name(number: int, height: int) -> str:
    """File of a camera."""
    return f"camera{number}-{height}.mkv"


class ClipCameras(CameraServer):
    """One process that plays them all; gone after the block."""

    def __enter__(self) -> ClipCameras:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def urls(self, cameras: int, height: int) -> tuple[str, ...]:
        """Addresses of the first `cameras` cameras; each plays for ever."""
        names = (name(number, height) for number in range(cameras))
        return tuple(f"rtsp://127.0.0.1:{self.port}/{each}?play_count=0" for each in names)

    def usage(self) -> Usage:
        """CPU of the server: nobody's but its own."""
        return usage(self.pid)


def _encoded(clip: Path, path: Path, size: tuple[int, int]) -> list[Packet[av.VideoStream]]:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options=_X264)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, frame in enumerate(_shown(clip, size)):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(path)) as given:
        return [packet for packet in given.demux(video=0) if packet.size]


def _shown(clip: Path, size: tuple[int, int]) -> Iterator[av.VideoFrame]:
    """The clip's frames that a camera of 10 frames/s would have seen."""
    with av.open(str(clip)) as container:
        fps = float(container.streams.video[0].average_rate or FPS)
        due = itertools.count()
        wanted = next(due)
        for number, frame in enumerate(container.decode(video=0)):
            if number / fps >= _SECONDS:
                return
            if number / fps + 1e-6 >= wanted / FPS:
                wanted = next(due)
                seen = frame.reformat(width=size[0], height=size[1], format="yuv420p")
                seen.pict_type = PictureType.NONE  # else the clip's key frames would be ours, too
                yield seen


def _write(path: Path, groups: list[list[Packet[av.VideoStream]]], template: Path) -> None:
    with av.open(str(template)) as given, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(itertools.chain.from_iterable(groups)):
            copy = Packet(bytes(packet))
            copy.pts = copy.dts = number
            copy.time_base, copy.is_keyframe = Fraction(1, FPS), packet.is_keyframe
            copy.stream = stream
            output.mux(copy)
