"""What a container claims about its tracks, and whether its video track kept it."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

import av
from av.packet import Packet
from av.video.stream import VideoStream

from framegate.stages.decode.container import Opened

_HOURS: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_SLACK_S: Final = 0.1


def claimed_rate(stream: VideoStream) -> Fraction | None:
    """Return the frames a second that the container claims; never used to count time."""
    return stream.average_rate or stream.guessed_rate or None


def claimed_duration_s(opened: Opened) -> float | None:
    """Return the seconds that the container claims for the track, else for the whole file."""
    stream, container = opened.stream, opened.container
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def claimed_frames(opened: Opened) -> int | None:
    """Return the frames that the container claims, or that follow from its duration and rate."""
    if opened.stream.frames > 0:
        return opened.stream.frames
    rate, seconds = claimed_rate(opened.stream), claimed_duration_s(opened)
    return round(seconds * rate) if rate and seconds and seconds > 0 else None


def _track_duration_s(opened: Opened) -> float | None:
    """Return the seconds claimed for the video track itself: sound may go on after it."""
    tag = opened.stream.metadata.get("DURATION", "")  # how Matroska says it: HH:MM:SS.fraction
    if found := _HOURS.fullmatch(tag.strip("\0 ")):
        hours, minutes, seconds = found.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if opened.stream.duration is None and len(opened.container.streams) > 1:
        return None
    return claimed_duration_s(opened)


def described_sound(opened: Opened) -> tuple[str, int, int] | None:
    """Return codec, hertz and channels of the sound track, as the container states them; None
    where there is none that can be decoded.
    """
    if opened.sound is None:
        return None
    codec = opened.sound.codec_context
    return codec.name, codec.sample_rate, codec.channels


class TruncationCheck:
    """Watches the packets of a track to tell whether the file goes as far as it claims.

    mp4 counts its packets exactly. Other containers claim a duration at best; what is missing must
    be longer than any pause within the track to be told from the length of the last frame.
    """

    def __init__(self) -> None:
        self._packets = 0
        self._is_cut = False
        self._end: int | None = None
        self._longest_pause = 0

    def see(self, packet: Packet[VideoStream]) -> None:
        """Note one packet, in reading order; the empty one at the end is no packet."""
        if packet.size == 0:
            return
        self._packets += 1
        self._is_cut = packet.is_corrupt
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            if self._end is not None:
                self._longest_pause = max(self._longest_pause, end - self._end)
            self._end = end if self._end is None else max(end, self._end)

    def is_early(self, opened: Opened) -> bool:
        """Tell whether the last packet was cut or what the container claims did not come."""
        if self._is_cut:
            return True
        if opened.container.format.name.startswith("mov"):
            return self._is_short_mp4(opened.stream)
        claim, tick = _track_duration_s(opened), opened.stream.time_base
        if claim is None or tick is None or self._end is None:
            return False
        first = min(opened.stream.start_time or 0, 0)
        slack = max(_SLACK_S, 2 * float(self._longest_pause * tick))
        return float((self._end - first) * tick) + slack < claim

    def _is_short_mp4(self, stream: VideoStream) -> bool:
        if self._packets >= stream.frames:
            return False
        if self._end is None or stream.duration is None:
            return True
        # An edit list may leave out packets that the index counts, but then shortens the track.
        return self._end - (stream.start_time or 0) < stream.duration
