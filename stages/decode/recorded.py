"""Read the files of a recording on one clock: for clips, and as a source that is detected again.

Files that continue each other are a *run*. Within a run, the clock is that of the media. Each run
begins as much later than the first one as it was captured later, so that gaps stay.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.error
from av.container import InputContainer
from av.packet import Packet

from framegate.pipeline.contracts.errors import FramegateError, SourceFault
from framegate.pipeline.contracts.recorded_range import range_of
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.playlist import parts

_TRAIL_S: Final = 1.0  # after the end, in which packets of earlier sound may follow
_SLACK_S: Final = 0.5  # of the end of a file
_LONGEST_S: Final = 10.0  # between two pictures
_LEAD_S: Final = 0.05  # of sound before the begin, which a player needs to start with it


class _Chain(io.RawIOBase):
    """Files joined to one MP4, the later ones without their heads."""

    def __init__(self, folder: Path, segments: Sequence[Segment]) -> None:
        super().__init__()
        self._left: list[tuple[Path, int]] = []
        for segment in segments:
            self._left.append((folder / segment.path, segment.head if self._left else 0))
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._file is None:
                if not self._left:
                    return b""
                path, head = self._left.pop(0)
                self._file = open(path, "rb")  # noqa: SIM115  # closed after the last read
                self._file.seek(head)
            data = self._file.read(size)
            if data:
                return data
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """Segments that continue each other, and their place on the clock of all runs.

    ahead_s  the files' clock minus the clock of all runs
    """

    segments: list[Segment]
    ahead_s: float

    def opened(self, folder: Path) -> InputContainer:
        """Open the files as one. FFmpegError, OSError. folder: that of recordings"""
        return av.open(_Chain(folder, self.segments), "r", format="mov")

    def packets(self, held: InputContainer, seconds: float = math.inf) -> Iterator[Packet[Any]]:
        """Yield packets on the clock of all runs: from the last key frame at or before 0, up to
        `seconds`.

        held  from `opened`
        """
        waiting: list[Packet[Any]] = []  # before 0, from a key frame on
        for packet in held.demux():
            if packet.dts is None or packet.pts is None:
                continue
            base: Fraction = packet.time_base
            ahead = round(self.ahead_s / base)
            packet.pts -= ahead
            packet.dts -= ahead
            is_video = packet.stream.type == "video"
            at = float(packet.pts * base)
            decoded = float(packet.dts * base)
            if decoded >= seconds:
                if is_video and decoded >= seconds + _TRAIL_S:
                    break
                continue
            if at <= 0 and is_video and packet.is_keyframe:
                waiting = [other for other in waiting if other.stream.type != "video"]
            if at < 0:
                if is_video or at > -_LEAD_S:
                    waiting.append(packet)
                continue
            yield from waiting
            waiting = []
            yield packet
        yield from waiting


def recorded_runs(segments: Sequence[Segment], begin_s: float = 0.0) -> list[RecordedRun]:
    """Split segments where one does not continue the other.

    begin_s  the clock's zero, in seconds after the begin of the first segment
    """
    runs: list[RecordedRun] = []
    for segment in segments:
        if runs and segment.follows(runs[-1].segments[-1]):
            runs[-1].segments.append(segment)
            continue
        at = segment.captured - segments[0].captured - begin_s
        if runs:
            last = runs[-1].segments[-1]
            at = max(at, last.pts_end + last.shift_s - runs[-1].ahead_s)
        runs.append(RecordedRun([segment], segment.pts + segment.shift_s - at))
    return runs


class RecordedMedia:
    """The packets of a range of a recording. One thread.

    container  of its first run; all packets have streams of this container
    begins     UNIX seconds at which the first file begins, time 0 of all packets
    seconds    from there to the end
    """

    def __init__(self, place: str) -> None:
        """Open the first run. SourceFault: missing, changed; FFmpegError, OSError."""
        try:
            wanted = range_of(place)
        except ValueError as error:
            raise SourceFault(str(error), "missing") from None
        try:
            with closing(Index(wanted.data, makes=False)) as index:
                files = index.within(wanted.source, wanted.since, wanted.until)
                self._folder = index.folder
        except FramegateError as error:
            raise SourceFault(f"{place}: {error}", "missing") from error
        if len(files) != wanted.files or len(parts(files)) != 1:
            raise SourceFault(
                f"{place}: {len(files)} files are recorded there now, and {wanted.files} were when "
                "the run began, so the frames would differ; start another run",
                "changed",
            )
        self._runs = recorded_runs(files)
        self.begins = files[0].captured
        last = files[-1]
        self.seconds = last.pts_end + last.shift_s - self._runs[-1].ahead_s
        self.container = self._runs[0].opened(self._folder)

    def packets(self) -> Iterator[Packet[Any]]:
        """Yield the packets of all runs, with an empty one of each stream at the end.

        SourceFault: damaged, or changed if a file was removed meanwhile. Frames that follow a
        damaged part would have other numbers than those of an undamaged range.
        """
        streams = {stream.index: stream for stream in self.container.streams}
        latest: dict[int, Fraction] = {}
        for run in self._runs:
            ends = _FileEnds(run)
            try:
                for packet in self._packets_of(run):
                    ends.see(packet)
                    packet.stream = streams[packet.stream_index]
                    if not is_repeated(packet, latest):
                        yield packet
                ends.check()
            except FileNotFoundError as error:
                raise SourceFault(f"{error}: it was removed while it was read", "changed") from None
            except (av.error.FFmpegError, OSError) as error:
                file = run.segments[0].path
                raise SourceFault(f"{file} or a file after it: {error}", "damaged") from error
        for stream in streams.values():
            end: Packet[Any] = Packet()
            end.stream = stream
            end.time_base = stream.time_base or Fraction(1)
            yield end

    def _packets_of(self, run: RecordedRun) -> Iterator[Packet[Any]]:
        if run is self._runs[0]:
            yield from run.packets(self.container)
            return
        with run.opened(self._folder) as held:
            yield from run.packets(held)


class _FileEnds:
    """Compares the pictures of a run with the times that the index has of its files."""

    def __init__(self, run: RecordedRun) -> None:
        self._files = run.segments
        self._ends = [each.pts_end + each.shift_s - run.ahead_s for each in run.segments]
        self._number = 0  # of the file that is read
        self._shown = -math.inf  # end of the pictures so far, seconds
        self._longest_s = 0.0  # from one picture to the next

    def see(self, packet: Packet[Any]) -> None:
        """Note a packet. SourceFault if pictures of a file before it are missing."""
        if packet.stream.type != "video":
            return
        base = packet.time_base
        at = float((packet.pts or 0) * base)
        # Sums of times and of roundings differ by less than a picture lasts.
        while self._number < len(self._ends) - 1 and at >= self._ends[self._number] + _SLACK_S:
            self._check_file()
            self._number += 1
        if at > self._shown > -math.inf:
            self._longest_s = max(self._longest_s, min(at - self._shown, _LONGEST_S))
        self._shown = max(self._shown, at + float((packet.duration or 0) * base))

    def check(self) -> None:
        """Check the rest of the files at the end of the packets. SourceFault."""
        for number in range(self._number, len(self._ends)):
            self._number = number
            self._check_file()

    def _check_file(self) -> None:
        missing_s = self._ends[self._number] - self._shown
        if missing_s > _SLACK_S + 2 * self._longest_s:
            path = self._files[self._number].path
            text = f"{path}: damaged: its last {missing_s:.1f} s have no picture; leave it out of "
            raise SourceFault(f"{text}the range with --since and --until", "damaged")


def is_repeated(packet: Packet[Any], latest: dict[int, Fraction]) -> bool:
    """Return whether a packet is not later than one before it of its stream: sound of a file that
    was recorded again after a kill.

    latest  dts of the last packet of each stream, seconds; updated
    """
    at = (packet.dts or 0) * packet.time_base
    index = packet.stream_index
    if index in latest and at <= latest[index]:
        return True
    latest[index] = at
    return False
