"""Clips as so many cameras at a rate, each with a phase and a place of its own in the clip."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.packet import Packet

Packets: TypeAlias = "Sequence[Packet[av.VideoStream]]"

_CLOCK = Fraction(1, 90000)
_ENCODED = 300  # at most so many frames of a clip are encoded at another size; then they come again
_X264 = {"preset": "veryfast", "g": "20", "bf": "0"}


def make_cameras(clip: Path, folder: Path, height: int, fps: float, count: int, s: float) -> None:
    """Write what each camera shows for so many seconds: the clip's frames, `fps` of them a second.

    The clip's own packets where it has that height. Camera n begins n key frames later, and from
    its second frame on comes n / count of a period later than the first camera, as nothing else
    keeps files of one rate apart that begin together.
    """
    shown = clip if height_of(clip) == height else _scaled(clip, folder, height)
    with av.open(str(shown)) as given:
        packets = [packet for packet in given.demux(video=0) if packet.size]
    starts = [at for at, packet in enumerate(packets) if packet.is_keyframe]
    for number in range(count):
        start = starts[number % len(starts)]
        turned = packets[start:] + packets[:start]
        phase = Fraction(number, count)
        _write(folder / name(number), turned, shown, fps, phase, frames=int(fps * s))


def name(number: int) -> str:
    """File of a camera."""
    return f"camera{number}.mp4"


def height_of(clip: Path) -> int:
    """Rows of a clip's pictures."""
    with av.open(str(clip)) as given:
        return given.streams.video[0].height


def _scaled(clip: Path, folder: Path, height: int) -> Path:
    """The clip's first frames in another size, as a camera would encode them."""
    path = folder / f"{clip.stem}-{height}.mp4"
    if path.is_file():
        return path
    with av.open(str(clip)) as given, av.open(str(path), "w") as output:
        track = given.streams.video[0]
        width = 2 * round(height * 16 / 9 / 2)
        stream = output.add_stream("libx264", rate=track.average_rate, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(itertools.islice(given.decode(track), _ENCODED)):
            seen = frame.reformat(width=width, height=height, format="yuv420p")
            seen.pts, seen.time_base = number, 1 / Fraction(track.average_rate or 25)
            seen.pict_type = av.video.frame.PictureType.NONE
            output.mux(stream.encode(seen))
        output.mux(stream.encode(None))
    return path


def _write(
    path: Path, packets: Packets, template: Path, fps: float, phase: Fraction, frames: int
) -> None:
    """Packets in order, over and over, with the time stamps of a camera of that rate."""
    period = 1 / Fraction(fps).limit_denominator(1001) / _CLOCK
    with av.open(str(template)) as given, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for number, (packet, order) in enumerate(_ordered(packets, frames)):
            later = phase if number else 0
            copy = Packet(bytes(packet))
            copy.time_base, copy.is_keyframe = _CLOCK, packet.is_keyframe
            copy.pts, copy.dts = round((order + later) * period), round((number + later) * period)
            copy.stream = stream
            output.mux(copy)


def _ordered(packets: Packets, frames: int) -> Iterator[tuple[Packet[av.VideoStream], int]]:
    """Packets, each with the place at which it is shown: late enough to be decoded by then.

    Every group from a key frame to the next is closed, so that its pictures are shown in it.
    """
    groups = itertools.accumulate(packet.is_keyframe for packet in packets)
    keys = [(group, packet.pts or 0) for group, packet in zip(groups, packets, strict=True)]
    shown = sorted(range(len(packets)), key=keys.__getitem__)
    place = {at: rank for rank, at in enumerate(shown)}
    late = max(at - rank for at, rank in place.items())
    for number in range(frames):
        rounds, at = divmod(number, len(packets))
        yield packets[at], rounds * len(packets) + place[at] + late
