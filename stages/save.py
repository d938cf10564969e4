"""Save: annotated videos, one a source; what `framegate run --save` adds to the graph."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import ConfigFaults
from pipeline.records import START, End, GateView, Position
from pipeline.stage import Context, Item, Stage
from stages.annotate import AnnotatedVideo, VideoUnwritable
from stages.detections import last_detections
from stages.gate_overlay import FADING, look_of
from stages.planes import as_picture

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveOptions:
    """folder: where the videos go; made if it is not there. run: whose videos they are."""

    folder: str
    run: str = ""


class SaveState(msgspec.Struct, frozen=True):
    """parts: files begun for a source in a run; a worker that takes over begins the next."""

    parts: int = 0
    run: str = ""


class Save(Stage[SaveState]):
    """One frame in, one frame of video out; nothing is emitted.

    In     pixels of the frame, and the detections of the stage before
    State  how many files were begun: NAME.mp4, and NAME-2.mp4 if a worker died in between
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
        self._videos: dict[str, AnnotatedVideo | None] = {}
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
        run = self.options.run
        part = state.parts + 1 if state.run == run else 1
        self._states[source] = SaveState(part, run)
        path = self._folder / (f"{source}.mp4" if part == 1 else f"{source}-{part}.mp4")
        try:
            self._videos[source] = AnnotatedVideo(path)
        except VideoUnwritable as error:
            self._give_up(source, error)

    def _add(self, item: Item) -> None:
        video = self._videos[item.source]
        if video is None:
            return
        found = last_detections(item.record)
        try:
            with self.context.pixels(item) as pixels:
                picture = as_picture(pixels, item.record.form)
                look = look_of(found, picture, self._seen[item.source])
                video.add(picture, item.record.pts, found.objects, look)
        except VideoUnwritable as error:
            self._give_up(item.source, error)
        if found.gate is not None:
            self._seen[item.source].appendleft(found.gate)

    def _give_up(self, source: str, error: VideoUnwritable) -> None:
        log.error("source %s: %s; the run goes on without it", source, error)
        self._videos[source] = None

    def end(self, source: str, end: End, state: SaveState) -> tuple[Any, SaveState]:
        """Finish the video with the source's last epoch."""
        if end.last:
            self._close(source)
        return None, state

    def close(self) -> None:
        """Finish all videos."""
        for source in list(self._videos):
            self._close(source)

    def _close(self, source: str) -> None:
        video = self._videos.pop(source, None)
        self._seen.pop(source, None)
        try:
            if video is not None:
                video.close()
        except VideoUnwritable as error:
            log.error("source %s: %s", source, error)
