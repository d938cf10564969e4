"""Videos with sound, and what of their packets a recording must hold, byte for byte."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
from av.packet import Packet

from framegate.pipeline.contracts.source import Request
from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import FOLDER, NAME
from framegate.pipeline.recording.mp4_boxes import boxes
from framegate.pipeline.recording.segment_writer import Recording
from framegate.stages.decode import Decode
from framegate.stages.decode.options import DecodeOptions
from tests.support.footage import Size, frame_of, scene

WIDE = RecordSpec(bytes=1 << 30, days=7.0, pinned_days=30.0, free_bytes=1 << 20)
EACH = 1000
_QUIET = {"libx265": {"x265-params": "log-level=none"}}
_CHUNK = {"aac": (48000, "fltp", "stereo"), "pcm_mulaw": (8000, "s16", "mono")}


def write_both(
    path: Path,
    seconds: float,
    codec: str = "libx264",
    sound: str | None = "aac",
    *,
    fps: float = 25.0,
    gop: int = 25,
    size: Size = (96, 64),
    options: dict[str, str] | None = None,
    pts_s: Sequence[float] | None = None,
    sound_from_s: float = 0.0,
) -> Path:
    """Encode `scene` with a key frame every `gop` pictures, and a tone from `sound_from_s` on."""
    times = [n / fps for n in range(round(seconds * fps))] if pts_s is None else pts_s
    with av.open(str(path), "w") as output:
        video = output.add_stream(
            codec, rate=25, options={**_QUIET.get(codec, {}), **(options or {})}
        )
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.gop_size = gop
        video.codec_context.time_base = Fraction(1, 1000)
        rate, form, layout = _CHUNK[sound or "aac"]
        track = None if sound is None else output.add_stream(sound, rate=rate, layout=layout)
        step = rate // 50
        heard = round(sound_from_s * 50)
        for n, at in enumerate(times):
            frame = frame_of(scene(n, size), "yuv420p")
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            output.mux(video.encode(frame))
            while track is not None and heard / 50 <= at:
                wave = np.sin(np.arange(heard * step, (heard + 1) * step) / 10) / 2
                both = np.stack([wave] * (2 if layout == "stereo" else 1))
                data = both.astype("f4") if form == "fltp" else (both * 3e4).astype("i2")
                piece = av.AudioFrame.from_ndarray(data, form, layout)
                piece.sample_rate, piece.pts, piece.time_base = (
                    rate,
                    heard * step,
                    Fraction(1, rate),
                )
                output.mux(track.encode(piece))
                heard += 1
        output.mux(video.encode(None))
        if track is not None:
            output.mux(track.encode(None))
    return path


def record(
    data: Path, file: Path, source: str = "gate", spec: RecordSpec = WIDE, epoch: int = 1
) -> list[Segment]:
    """Decode a file to its end while it is recorded; gives the segments."""
    feed(data, file, source, spec, epoch)
    return segments(data, source)


def feed(
    data: Path, file: Path, source: str = "gate", spec: RecordSpec = WIDE, epoch: int = 1
) -> None:
    """Decode a file to its end while it is recorded."""
    take = Recording(data, source, spec).take()
    opened = Decode(DecodeOptions()).open(Request(str(file)), take=take)
    for n, frame in enumerate(opened):
        if n == 0 and frame is not None:
            take.announce_epoch(epoch, frame.pts)
    opened.close()


def set_begins(data: Path, source: str, begins: Mapping[int, float]) -> None:
    """Make the recordings of a source look as if a camera had sent them: each epoch began at a
    time, UNIX seconds, and took as long as it plays.
    """
    with closing(sqlite3.connect(data / FOLDER / NAME)) as database, database:
        for epoch, begin in begins.items():
            database.execute(
                "UPDATE segment SET captured_end = ? + pts_end, captured = ? + pts"
                " WHERE source = ? AND epoch = ?",
                (begin, begin, source, epoch),
            )


def add_segment(
    index: Index, source: str, number: int, captured: float, is_key: bool = True
) -> Segment:
    """Add a segment of four seconds, the `number`-th of its source, with a file of EACH bytes that
    holds no video. captured: UNIX seconds of its begin.
    """
    made = Segment(
        path=f"{source}/1/day/{number:06}.mp4",
        source=source,
        epoch=1,
        pts=4.0 * number,
        pts_end=4.0 * number + 4.0,
        shift_s=0.0,
        captured=captured,
        captured_end=captured + 4.0,
        nbytes=EACH,
        head=10,
        init="a",
        is_key=is_key,
        sound=False,
    )
    path = index.folder / made.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(EACH))
    index.add([made])
    return made


def segments(data: Path, source: str = "gate") -> list[Segment]:
    """All that the index has of a source."""
    index = Index(data)
    try:
        return index.between(source, 0.0, 1e12)
    finally:
        index.close()


def as_files_say(rows: Sequence[Segment]) -> list[Segment]:
    """Rows without the time at which they were written: of a file that is taken in again it is that
    of the file system, which is a little earlier.
    """
    return [msgspec.structs.replace(one, written=0.0) for one in rows]


def split(file: Path) -> tuple[bytes, list[bytes]]:
    """The init part of a recorded file, and its fragments as a take is given them."""
    held, init, begin = file.read_bytes(), b"", 0
    found = []
    for box in boxes(held):
        if box.kind == b"moov":
            init = held[: box.end]
        elif box.kind == b"moof":
            begin = box.at
        elif box.kind == b"mdat":
            found.append(held[begin : box.end])
    return init, found


def payload(file: Path, kind: str = "video", parameters: bool = True) -> list[bytes]:
    """What each packet of a track carries, whatever container frames it; or without parameter sets,
    which some servers put before key frames.
    """
    with av.open(str(file)) as held:
        track = held.streams.get({kind: 0})[0]
        return [
            bare(packet, track.codec_context, parameters)
            for packet in held.demux(track)
            if packet.size
        ]


def bare(packet: Packet, context: Any, parameters: bool) -> bytes:
    """NAL units without start codes or lengths, and without what only marks them; sound without an
    ADTS header.
    """
    data, codec = bytes(packet), context.name
    if codec == "aac" and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    if codec not in ("h264", "hevc"):
        return data
    units = []
    if not (context.extradata or b"").startswith(b"\1"):  # a length may look like a start code
        units = [unit.rstrip(b"\0") for unit in data.split(b"\0\0\1") if unit.strip(b"\0")]
    else:
        while data:
            size = int.from_bytes(data[:4], "big")
            units.append(data[4 : 4 + size].rstrip(b"\0"))
            data = data[4 + size :]
    left_out = {9} if codec == "h264" else {35}
    if not parameters:
        left_out |= {7, 8} if codec == "h264" else {32, 33, 34}
    kinds = [(unit[0] & 0x1F) if codec == "h264" else (unit[0] >> 1 & 0x3F) for unit in units]
    return b"|".join(unit for unit, kind in zip(units, kinds, strict=True) if kind not in left_out)


def times(file: Path) -> list[float]:
    """When each picture is shown, as it is decoded."""
    with av.open(str(file)) as held:
        return [frame.time for frame in held.decode(video=0) if frame.time is not None]
