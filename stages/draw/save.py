"""Save: annotated videos, one a source, as MP4; what `framegate run --save` adds to the graph."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import av
import av.error
import cv2
import msgspec
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from framegate.models.picture import Picture
from framegate.pipeline.errors import ConfigFaults, FramegateError
from framegate.pipeline.outputs import give_name, saved_video
from framegate.pipeline.records import START, End, GateView, Object, Position
from framegate.pipeline.stage import Context, Item, Stage
from framegate.stages.detections import last_detections
from framegate.stages.draw.canvas import Plane, draw
from framegate.stages.draw.gate_overlay import FADING, GateOverlay, draw_gate, overlay_of
from framegate.stages.planes import as_picture

# -- Annotated video: the frames of a source with their objects drawn, as an MP4 file.


TICKS: Final = 60_000  # a second; whole ticks for 24, 25, 30, 50, 60 and 29.97 frames a second
_NEUTRAL: Final = 128
_FIRST_STEP: Final = TICKS // 25
_COUNT: Final = Fraction(1, 25)
_LAMBDA: Final = 118  # FFmpeg's quality unit, FF_QP2LAMBDA


class VideoUnwritable(FramegateError):
    """The annotated video cannot be written: no room, no permission, no such folder."""


class AnnotatedVideo:
    """Writes frames to `path` as MPEG-4 Part 2 in MP4, each at its own time.

    In      Picture of any size; the first fixes the size of the video, others are fitted into it
            with black bars. pts in seconds; one that is missing or does not rise is moved just
            behind its predecessor (missing: by the last step), so order and count are kept
    origin  the pts, in seconds, that becomes the start of the file (a live source's first)
    quality 2 (best) .. 31, constant over the file
    Fails   VideoUnwritable, from construction to close(), and closes; what was written up to then
            can be played, as it can after a kill, but for the last seconds
    Thread  one at a time
    """

    def __init__(self, path: str | Path, origin: float = 0.0, quality: int = 4) -> None:
        if not 2 <= quality <= 31:
            raise ValueError(f"quality: {quality}; allowed: 2 to 31")
        self.path, self.origin, self.quality = Path(path), origin, quality
        self.frames = 0
        self._converter = VideoReformatter()
        self._stream: VideoStream | None = None
        self._held: Packet[VideoStream] | None = None
        self._last, self._step = -1, _FIRST_STEP
        try:
            self.path.open("wb").close()  # FFmpeg opens it with the first frame: say it at once
            # Fragments keep what is written playable; closing makes a plain MP4 of them.
            self._output: OutputContainer | None = av.open(
                f"file:{self.path.absolute()}",
                "w",
                format="mp4",
                container_options={"movflags": "+hybrid_fragmented+delay_moov+write_colr"},
            )
        except OSError as error:
            raise self._fault(error) from error

    def add(
        self,
        picture: Picture,
        pts: float | None,
        objects: Sequence[Object] = (),
        look: GateOverlay | None = None,
    ) -> None:
        """Write one frame with its objects drawn, and what the gate saw where `look` tells it."""
        if self._output is None:
            raise ValueError(f"{self.path}: this video is closed")
        drawn = draw_gate(picture, objects, look) if look else draw(picture, objects)
        try:
            stream = self._stream or self._start(self._output, drawn)
            frame = self._frame(_fitted(drawn, stream.width, stream.height))
            frame.pts, frame.time_base = self.frames, _COUNT
            for packet in stream.encode(frame):
                self._put(packet, self._tick(pts))
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        self.frames += 1

    def close(self) -> None:
        """Write what is held and finish the file, or remove it if empty; again is harmless."""
        if self._output is None:
            return
        try:
            if self._held is not None:
                self._held.duration = self._step
                self._output.mux(self._held)
            self._output.close()
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        self._output = None
        if self.frames == 0 and self.path.is_file():
            self.path.unlink()

    def _give_up(self) -> None:
        """Close after a failed write; FFmpeg crashes on a packet that it was given before."""
        output, self._output, self._held = self._output, None, None
        if output is not None:
            with contextlib.suppress(OSError):
                output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fault(self, error: OSError) -> VideoUnwritable:
        reason = error.strerror or type(error).__name__
        return VideoUnwritable(
            f"{self.path}: the annotated video cannot be written ({reason}); "
            "allowed: a new or own file in a folder with room"
        )

    def _start(self, output: OutputContainer, first: Picture) -> VideoStream:
        stream = output.add_stream("mpeg4", rate=25, width=first.width, height=first.height)
        context = stream.codec_context
        context.pix_fmt = "yuv420p"
        context.time_base = _COUNT
        context.qscale = True
        context.global_quality = self.quality * _LAMBDA
        context.colorspace = _space(first)
        context.color_range = ColorRange.MPEG
        stream.time_base = Fraction(1, TICKS)
        self._stream = stream
        return stream

    def _tick(self, pts: float | None) -> int:
        """Return the time of the next frame in ticks: its own, or the next that is possible."""
        if pts is None:
            tick = self._last + self._step if self.frames else 0
        else:
            tick = round((pts - self.origin) * TICKS)
        return max(tick, self._last + 1)

    def _put(self, packet: Packet[VideoStream], tick: int) -> None:
        """Hold a packet back until the next one says how long its frame is to be seen."""
        if self._output is None:
            return
        if self._held is not None:
            self._step = tick - self._last
            self._held.duration = self._step
            self._output.mux(self._held)
        # The encoder counts frames: MPEG-4's own clock can express no pause above an hour.
        packet.time_base = Fraction(1, TICKS)
        packet.pts = packet.dts = self._last = tick
        self._held = packet

    def _frame(self, picture: Picture) -> av.VideoFrame:
        frame = av.VideoFrame(picture.width, picture.height, "yuv420p")
        for target, plane in zip(frame.planes, (picture.y, picture.u, picture.v), strict=True):
            rows = np.frombuffer(memoryview(target), np.uint8).reshape(target.height, -1)
            rows[:, : target.width] = plane
        if not picture.full_range:
            return frame
        # Players take MPEG-4 for limited range whatever its container says.
        space = _space(picture)
        return self._converter.reformat(
            frame,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )


def _space(picture: Picture) -> Colorspace:
    return Colorspace.ITU709 if picture.matrix == "bt709" else Colorspace.ITU601


def _fitted(picture: Picture, width: int, height: int) -> Picture:
    """Return the picture scaled into `width` x `height` with its proportions, bars around it."""
    if (picture.width, picture.height) == (width, height):
        return picture
    scale = min(width / picture.width, height / picture.height)
    wide = min(width, max(1, round(picture.width * scale)))
    high = min(height, max(1, round(picture.height * scale)))
    left, top = (width - wide) // 4 * 2, (height - high) // 4 * 2  # whole chroma samples
    black = 0 if picture.full_range else 16
    half = (left // 2, top // 2, (wide + 1) // 2, (high + 1) // 2)
    chroma = (width + 1) // 2, (height + 1) // 2
    return Picture(
        _inlaid(picture.y, (width, height), (left, top, wide, high), black),
        _inlaid(picture.u, chroma, half, _NEUTRAL),
        _inlaid(picture.v, chroma, half, _NEUTRAL),
        picture.matrix,
        picture.full_range,
    )


def _inlaid(
    plane: Plane, size: tuple[int, int], place: tuple[int, int, int, int], around: int
) -> Plane:
    width, height = size
    left, top, wide, high = place
    whole = np.full((height, width), around, np.uint8)
    scaled = cv2.resize(plane, (wide, high), interpolation=cv2.INTER_AREA)
    whole[top : top + high, left : left + wide] = scaled
    return whole


log = logging.getLogger(__name__)

_PART: Final = re.compile(r"[a-z0-9_]+\.framegate(?:-(\d+))?\.mp4\.([0-9a-z]*)\.part")


@dataclass(frozen=True)
class SaveOptions:
    """folder: where the videos go; made if it is not there. run: whose videos they are.

    overwrite: a video of that name that another run made may be replaced
    """

    folder: str
    run: str = ""
    overwrite: bool = False


class SaveState(msgspec.Struct, frozen=True):
    """parts: number of the last file begun for a source in a run; who takes over begins another."""

    parts: int = 0
    run: str = ""


class Save(Stage[SaveState]):
    """One frame in, one frame of video out; nothing is emitted.

    In     pixels of the frame, and the detections of the stage before
    State  the number of the file: NAME.framegate.mp4, and NAME.framegate-2.mp4 if a worker died in
           between
    Files  NAME.framegate.mp4.RUN.part while it is written, which can be played; it gets its name
           when it is finished, and one that a killed worker left when the source's next begins.
           What is there and not of this run is not replaced, but with `overwrite`
    Fails  a video that cannot be written is given up, said once; the run goes on
    """

    Options = SaveOptions
    State = SaveState
    pixels = 1
    batch = 16
    options: SaveOptions

    def __init__(self, options: SaveOptions, context: Context) -> None:
        super().__init__(options, context)
        self._folder = Path(options.folder)
        self._videos: dict[str, _Part | None] = {}
        self._states: dict[str, SaveState] = {}
        self._written: dict[str, Position] = {}
        self._seen: defaultdict[str, deque[GateView]] = defaultdict(lambda: deque(maxlen=FADING))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigFaults([f"--save {self._folder}: {error}"]) from error

    def process(
        self, batch: Sequence[Item], states: Mapping[str, SaveState]
    ) -> tuple[list[None], dict[str, SaveState]]:
        """Add each frame to its source's video; one that comes again is in it already."""
        for item in batch:
            if item.source not in self._videos:
                self._begin(item.source, states[item.source])
            if item.position > self._written.get(item.source, START):
                self._add(item)
                self._written[item.source] = item.position
        return [None] * len(batch), {item.source: self._states[item.source] for item in batch}

    def _begin(self, source: str, state: SaveState) -> None:
        begun = self._begun(state)
        self._settle(source, begun)
        number = begun + 1
        while not self.options.overwrite and os.path.lexists(
            saved_video(self._folder, source, number)
        ):
            number += 1
        self._adopt(source, number)
        self._states[source] = SaveState(number, self.options.run)
        try:
            self._videos[source] = _Part(self._folder, source, number, self.options)
        except VideoUnwritable as error:
            self._give_up(source, error)

    def _begun(self, state: SaveState) -> int:
        return state.parts if state.run == self.options.run else 0

    def _settle(self, source: str, begun: int) -> None:
        """Give their names to the files that killed workers of this run left."""
        for left, number, run in _parts_left(self._folder, source):
            if run != self.options.run:
                continue
            with contextlib.suppress(OSError):
                if number > begun:
                    left.unlink()  # its frames were never committed, and come again
                elif not _is_written(left):  # by a worker that hangs
                    _finish(left, source, number, self.options.overwrite)

    def _adopt(self, source: str, number: int) -> None:
        """Give names after ours to the files that killed runs left."""
        for left, theirs, run in _parts_left(self._folder, source):
            with contextlib.suppress(OSError):
                if run != self.options.run and not _is_written(left):
                    _finish(left, source, max(theirs, number + 1), overwrite=False)

    def _add(self, item: Item) -> None:
        part = self._videos[item.source]
        if part is None:
            return
        found = last_detections(item.record)
        try:
            with self.context.pixels(item) as pixels:
                picture = as_picture(pixels, item.record.form)
                look = overlay_of(found, picture, self._seen[item.source])
                part.video.add(picture, item.record.pts, found.objects, look)
        except VideoUnwritable as error:
            self._give_up(item.source, error)
        if found.gate is not None:
            self._seen[item.source].appendleft(found.gate)

    def _give_up(self, source: str, error: VideoUnwritable) -> None:
        log.error("source %s: %s; the run goes on without it", source, error)
        part, self._videos[source] = self._videos.get(source), None
        if part is not None:
            part.close()

    def end(self, source: str, end: End, state: SaveState) -> tuple[Any, SaveState]:
        """Finish the video with the source's last epoch."""
        if end.last:
            if source not in self._videos:
                self._settle(source, self._begun(state))
            self._close(source)
        return None, state

    def close(self) -> None:
        """Finish all videos."""
        for source in list(self._videos):
            self._close(source)

    def _close(self, source: str) -> None:
        part = self._videos.pop(source, None)
        self._seen.pop(source, None)
        if part is not None:
            part.close()


class _Part:
    """A video that is being written, locked so that others see that it is."""

    def __init__(self, folder: Path, source: str, number: int, options: SaveOptions) -> None:
        self._source, self._number, self._overwrite = source, number, options.overwrite
        self._new = folder / f"{saved_video(folder, source, number).name}.{options.run}.part"
        self.video = AnnotatedVideo(self._new)
        self._lock = os.open(self._new, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Finish it, and give it its name; what hinders that is logged."""
        try:
            self.video.close()
        except VideoUnwritable as error:
            log.error("source %s: %s", self._source, error)
        try:
            if self._is_there():
                _finish(self._new, self._source, self._number, self._overwrite)
        except OSError as error:
            log.error("source %s: its video stays %s: %s", self._source, self._new, error)
        finally:
            os.close(self._lock)

    def _is_there(self) -> bool:
        """Whether it is still this file: another worker that took over may have begun anew."""
        try:
            return os.path.samestat(os.stat(self._new), os.fstat(self._lock))
        except FileNotFoundError:
            return False


def _parts_left(folder: Path, source: str) -> Iterator[tuple[Path, int, str]]:
    """Unfinished files of a source, with their numbers and runs."""
    for left in sorted(folder.glob(f"{source}.framegate*.part")):
        if match := _PART.fullmatch(left.name):
            yield left, int(match[1] or 1), match[2]


def _finish(new: Path, source: str, number: int, overwrite: bool) -> None:
    """Give a file its name, or the next number that is free; one that shows nothing goes."""
    if not _can_be_played(new):
        new.unlink()
        return
    while True:
        try:
            give_name(new, saved_video(new.parent, source, number), overwrite)
            return
        except FileExistsError:
            number += 1


def _can_be_played(path: Path) -> bool:
    try:
        with av.open(f"file:{path.absolute()}") as video:
            return bool(video.streams.video)
    except (OSError, ValueError, av.error.FFmpegError):
        return False


def _is_written(path: Path) -> bool:
    """Whether a worker that lives writes it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
