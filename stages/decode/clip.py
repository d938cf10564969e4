"""Export a range of a recording as one MP4 without encoding, or decode one recorded picture.

A clip begins with the key frame before its range; an edit list marks where playing begins.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.recording.index import RecordedPlace, Segment
from framegate.stages.decode.frame import DecodedFrame, Orientations
from framegate.stages.decode.recorded import RecordedRun, is_repeated, recorded_runs

_SAME_S: Final = 1e-3


class ClipFailed(FramegateError):
    """A clip cannot be written; its partial file is removed."""


def write_clip(
    folder: Path,
    segments: Sequence[Segment],
    path: Path,
    begin_s: float = 0.0,
    seconds: float = math.inf,
) -> None:
    """Write segments with one init part, in order, as one file, which replaces an existing one.

    begin_s  seconds of media before playing begins
    seconds  that it plays

    Over a gap in the recording, the picture before it stays. The format is MP4, or QuickTime where
    MP4 cannot store the sound (G.711). ClipFailed.
    """
    runs = recorded_runs(segments, begin_s)
    try:
        _write(folder, runs, path, seconds)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        path.unlink(missing_ok=True)
        raise ClipFailed(f"{path.name}: the clip cannot be written: {error}") from error


_OPTIONS: Final = {"movflags": "faststart", "avoid_negative_ts": "disabled"}


def _write(folder: Path, runs: Sequence[RecordedRun], path: Path, seconds: float) -> None:
    with contextlib.ExitStack() as stack:
        out: OutputContainer | None = None
        streams: dict[int, Stream] = {}
        last: dict[int, Fraction] = {}
        for run in runs:
            with run.opened(folder) as held:
                if out is None:
                    brand = held.metadata.get("major_brand", "")
                    form = "mov" if brand.strip() == "qt" else "mp4"
                    out = stack.enter_context(
                        av.open(str(path), "w", format=form, container_options=dict(_OPTIONS))
                    )
                    streams = {stream.index: _like(out, stream) for stream in held.streams}
                for packet in run.packets(held, seconds):
                    if is_repeated(packet, last):
                        continue
                    packet.stream = streams[packet.stream_index]
                    out.mux_one(packet)


def _like(out: Any, stream: Stream) -> Stream:
    copy: Stream = out.add_stream_from_template(stream, opaque=True)
    if stream.codec_context.name == "hevc":
        copy.codec_context.codec_tag = "hvc1"
    return copy


def recorded_frame(folder: Path, place: RecordedPlace, *, key_only: bool = False) -> DecodedFrame:
    """Return the picture that is shown at a place of a recording; decode from the key frame before
    it. ClipFailed.

    key_only  return this key frame, and decode no other picture
    """
    at_s = place.segment.pts + place.segment.shift_s + place.offset_s
    file = folder / place.segment.path
    try:
        with av.open(str(file), "r", format="mov") as held:
            needed: list[Packet[Any]] = []
            for packet in held.demux(video=0):
                if packet.pts is None or packet.dts is None:
                    continue
                if needed and packet.dts * packet.time_base > at_s + _SAME_S:
                    break
                if packet.is_keyframe and packet.pts * packet.time_base <= at_s + _SAME_S:
                    needed.clear()
                needed.append(packet)
            if key_only:
                del needed[1:]
            track = held.streams.video[0]
            last = (at_s + _SAME_S) / (track.time_base or 1)
            frame = _last_picture(track.codec_context, needed, last)
    except (OSError, IndexError, ValueError, av.error.FFmpegError) as error:
        raise ClipFailed(f"{file.name}: no picture can be decoded: {error}") from error
    if frame is None:
        raise ClipFailed(f"{file.name}: no picture can be decoded")
    return DecodedFrame(frame, VideoReformatter(), Orientations().of(frame))


def _last_picture(
    decoder: VideoCodecContext, packets: Iterable[Packet[Any]], last: float
) -> VideoFrame | None:
    """Return the last picture whose pts is at most `last`, or the first one if none is; None if
    there is no picture.
    """
    # Only one picture is kept: those of a 4K camera since its key frame would be over 1 GB.
    shown: VideoFrame | None = None
    for packet_or_end in (*packets, None):
        for frame in decoder.decode(packet_or_end):
            if shown is None or (frame.pts or 0) <= last:
                shown = frame
    return shown
