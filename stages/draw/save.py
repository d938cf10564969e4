"""Save: annotated videos, one a source, as MP4; what `framegate run --save` adds to the graph."""

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
from framegate.stages.planes import as_picture

log = logging.getLogger(__name__)

_LEAP_S: Final = 10.0  # a new epoch's pts may go further than the clock did: a file is read fast
_PART: Final = re.compile(r"[a-z0-9_]+\.framegate(?:-(\d+))?\.mp4\.([0-9a-z]*)\.part")


@dataclass(frozen=True)
class SaveOptions:
    """folder: where the videos go; made if it is not there. run: whose videos they are.

    overwrite: a video of that name that another run made may be replaced. codec: see VideoWriter.
    blur_faces: in the videos
    """

    folder: str
    run: str = ""
    overwrite: bool = False
    codec: Codec = "vp9"
    blur_faces: bool = False


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
        self._faces = FaceBlur() if options.blur_faces else None
        self._videos: dict[str, _VideoPart | None] = {}
        self._states: dict[str, SaveState] = {}
        self._written: dict[str, Position] = {}
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
            self._videos[source] = _VideoPart(self._folder, source, number, self.options)
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
        with self.context.pixels(item) as pixels:
            picture = as_picture(pixels, item.record.form)
            seconds = part.clock.time_of(item)
            part.trails.add(found.objects, seconds)
            look = overlay_of(found, picture, part.seen)
            if self._faces is not None:
                picture = self._faces.blurred(picture)
            drawn = draw(picture, found.objects, look, part.trails)
        if found.gate is not None:
            part.seen.appendleft(found.gate)
        try:
            part.video.add(drawn, seconds)
        except VideoUnwritable as error:
            self._give_up(item.source, error)

    def _give_up(self, source: str, error: VideoUnwritable) -> None:
        log.error("source %s: %s; the run continues without it", source, error)
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
        if part is not None:
            part.close()


class _VideoPart:
    """A video that is being written, locked so that others see that it is.

    clock         when its frames are seen
    trails, seen  what fades in it: where tracks were, and what the gate saw, newest first
    """

    def __init__(self, folder: Path, source: str, number: int, options: SaveOptions) -> None:
        self._source, self._number, self._overwrite = source, number, options.overwrite
        self._new = folder / f"{saved_video(folder, source, number).name}.{options.run}.part"
        self.video = VideoWriter(self._new, options.codec)
        self.clock = _Clock()
        self.trails = Trails()
        self.seen: deque[GateView] = deque(maxlen=FADING)
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


class _Clock:
    """When frames are seen in a video that begins with the first of them, in seconds of its time.

    That goes as `pts` does. With a new epoch (a camera that came back) pts may begin anew; then as
    much time passes as between the captures of both frames.
    """

    def __init__(self) -> None:
        self._shift: float | None = None
        self._epoch, self._last, self._captured = 0, 0.0, 0.0

    def time_of(self, item: Item) -> float | None:
        """Return when a frame is seen, None if its source says no time; call in order."""
        pts, captured, epoch = item.record.pts, item.record.captured, item.position.epoch
        if pts is None:
            return None
        if self._shift is None:
            self._shift = -pts
        elif epoch != self._epoch:
            passed = max(0.0, captured - self._captured)
            if not 0 < pts + self._shift - self._last <= passed + _LEAP_S:
                self._shift = self._last + passed - pts
        self._epoch, self._last, self._captured = epoch, pts + self._shift, captured
        return self._last


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
