"""The stage of `framegate run --save`: it writes an annotated video of each source as MP4."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import av.error
import msgspec

from framegate.models.picture import as_picture
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.results import GateView
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.pipeline.system.outputs import give_name, saved_video
from framegate.stages.detections import last_detections
from framegate.stages.draw.faces import FaceBlur
from framegate.stages.draw.gate_overlay import FADING, draw, overlay_of
from framegate.stages.draw.objects import Trails
from framegate.stages.draw.video import Codec, VideoUnwritable, VideoWriter

log = logging.getLogger(__name__)

_LEAP_S: Final = 10.0  # by which pts of a new epoch may advance more than the clock: files are fast
_PART: Final = re.compile(r"[a-z0-9_]+\.framegate(?:-(\d+))?\.mp4\.([0-9a-z]*)\.part")


@dataclass(frozen=True)
class SaveOptions:
    """The options of the stage.

    folder      folder of the videos, made if it is missing
    run         id of the run, which marks unfinished files as its own
    overwrite   whether videos of other runs may be replaced
    codec       see VideoWriter
    blur_faces  whether faces are blurred in the videos
    """

    folder: str
    run: str = ""
    overwrite: bool = False
    codec: Codec = "vp9"
    blur_faces: bool = False


class SaveState(msgspec.Struct, frozen=True):
    """The last file of a source: its number, and the run that began it.

    A worker that takes over a source begins the next file.
    """

    parts: int = 0
    run: str = ""


class Save(Stage[SaveState]):
    """A stage that adds each frame to the video of its source and emits nothing.

    Input  pixels of the frame, and the detections of the stage before
    State  number of the file: NAME.framegate.mp4, and NAME.framegate-2.mp4 after a worker died
    Files  NAME.framegate.mp4.RUN.part until the video is finished; it is playable at any time. The
           file of a killed worker gets its name when the source's next file begins. A video of
           another run is replaced only with `overwrite`
    Fault  a video that cannot be written is logged once and given up; the run continues
    """

    Options = SaveOptions
    State = SaveState
    pixels = 1
    batch = 16
    options: SaveOptions

    def __init__(self, options: SaveOptions, context: Context) -> None:
        super().__init__(options, context)
        self._folder = Path(options.folder)
        self._faces = None
        if options.blur_faces:
            self._faces = FaceBlur()
        self._videos: dict[str, _VideoPart | None] = {}  # None: it cannot be written
        self._states: dict[str, SaveState] = {}
        self._written: dict[str, Position] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigFaults([f"--save {self._folder}: {error}"]) from error

    def process(
        self, batch: Sequence[Item], states: Mapping[str, SaveState]
    ) -> tuple[list[None], dict[str, SaveState]]:
        """Add each frame to its source's video. Skip frames that are processed again."""
        for item in batch:
            if item.source not in self._videos:
                self._begin(item.source, states[item.source])
            if item.position > self._written.get(item.source, START):
                self._add(item)
                self._written[item.source] = item.position
        return [None] * len(batch), {item.source: self._states[item.source] for item in batch}

    def _begin(self, source: str, state: SaveState) -> None:
        last = self._last_number(state)
        self._settle(source, last)
        number = last + 1
        if not self.options.overwrite:
            while os.path.lexists(saved_video(self._folder, source, number)):
                number += 1
        self._adopt(source, number)
        self._states[source] = SaveState(number, self.options.run)
        try:
            self._videos[source] = _VideoPart(self._folder, source, number, self.options)
        except VideoUnwritable as error:
            self._give_up(source, error)

    def _last_number(self, state: SaveState) -> int:
        if state.run == self.options.run:
            return state.parts
        return 0

    def _settle(self, source: str, last: int) -> None:
        """Name the unfinished files that killed workers of this run left."""
        for file, number, run in _unfinished(self._folder, source):
            if run != self.options.run:
                continue
            with contextlib.suppress(OSError):
                if number > last:
                    file.unlink()  # its frames were never committed, so they are processed again
                elif not _is_written(file):  # a worker that hangs may still have it
                    _finish(file, source, number, self.options.overwrite)

    def _adopt(self, source: str, number: int) -> None:
        """Give numbers above `number` to the unfinished files that killed runs left."""
        for file, other_number, run in _unfinished(self._folder, source):
            with contextlib.suppress(OSError):
                if run != self.options.run and not _is_written(file):
                    _finish(file, source, max(other_number, number + 1), overwrite=False)

    def _add(self, item: Item) -> None:
        part = self._videos[item.source]
        if part is None:
            return
        detections = last_detections(item.record)
        with self.context.pixels(item) as pixels:
            picture = as_picture(pixels, item.record.form)
            seconds = part.clock.time_of(item)
            part.trails.add(detections.objects, seconds)
            look = overlay_of(detections, (picture.width, picture.height), part.views)
            if self._faces is not None:
                picture = self._faces.blurred(picture)
            drawn = draw(picture, detections.objects, look, part.trails)
        if detections.gate is not None:
            part.views.appendleft(detections.gate)
        try:
            part.video.add(drawn, seconds)
        except VideoUnwritable as error:
            self._give_up(item.source, error)

    def _give_up(self, source: str, error: VideoUnwritable) -> None:
        log.error("source %s: %s; the run continues without it", source, error)
        self._close(source)
        self._videos[source] = None

    def end(self, source: str, end: End, state: SaveState) -> tuple[Any, SaveState]:
        """Finish the video at the end of the source's last epoch."""
        if end.last:
            if source not in self._videos:
                self._settle(source, self._last_number(state))
            self._close(source)
        return None, state

    def close(self) -> None:
        """Finish all videos."""
        for source in list(self._videos):
            self._close(source)

    def _close(self, source: str) -> None:
        part = self._videos.pop(source, None)
        if part is not None:
            part.close()


class _VideoPart:
    """A video that is being written. Its file is locked, so that other workers leave it alone.

    clock   times of its frames
    trails  last places of the tracks
    views   last views of the gate, newest first
    """

    def __init__(self, folder: Path, source: str, number: int, options: SaveOptions) -> None:
        self._source = source
        self._number = number
        self._overwrite = options.overwrite
        self._new = folder / f"{saved_video(folder, source, number).name}.{options.run}.part"
        self.video = VideoWriter(self._new, options.codec)
        self.clock = _Clock()
        self.trails = Trails()
        self.views: deque[GateView] = deque(maxlen=FADING)
        self._lock = os.open(self._new, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Finish the video, and give the file its name. Faults are logged."""
        try:
            self.video.close()
        except VideoUnwritable as error:
            log.error("source %s: %s", self._source, error)
        try:
            if self._is_own_file():
                _finish(self._new, self._source, self._number, self._overwrite)
        except OSError as error:
            log.error("source %s: its video stays %s: %s", self._source, self._new, error)
        finally:
            os.close(self._lock)

    def _is_own_file(self) -> bool:
        """Return False if a worker that took over the source replaced or named the file."""
        try:
            return os.path.samestat(os.stat(self._new), os.fstat(self._lock))
        except FileNotFoundError:
            return False


class _Clock:
    """The times of frames in a video whose first frame is at 0 s.

    They advance as `pts` does. In a new epoch (a camera that reconnected) pts may start again; then
    they advance by the time between the captures of both frames.
    """

    def __init__(self) -> None:
        self._shift: float | None = None
        self._epoch = 0
        self._last = 0.0
        self._captured = 0.0

    def time_of(self, item: Item) -> float | None:
        """Return the time of the next frame in seconds; None if its source has no timestamps."""
        pts = item.record.pts
        captured = item.record.captured
        epoch = item.position.epoch
        if pts is None:
            return None
        if self._shift is None:
            self._shift = -pts
        elif epoch != self._epoch:
            passed_s = max(0.0, captured - self._captured)
            advance_s = pts + self._shift - self._last
            is_continued = 0 < advance_s <= passed_s + _LEAP_S
            if not is_continued:
                self._shift = self._last + passed_s - pts
        self._epoch = epoch
        self._last = pts + self._shift
        self._captured = captured
        return self._last


def _unfinished(folder: Path, source: str) -> Iterator[tuple[Path, int, str]]:
    """Yield the unfinished files of a source, with their numbers and runs."""
    for file in sorted(folder.glob(f"{source}.framegate*.part")):
        match = _PART.fullmatch(file.name)
        if match:
            yield file, int(match[1] or 1), match[2]


def _finish(new: Path, source: str, number: int, overwrite: bool) -> None:
    """Give a file its name, or the next free number. Remove a file without video."""
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
    """Return whether a live worker writes the file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
