"""The segment that `segment_writer` is writing: its file, its fragments, and when it ends."""

from __future__ import annotations

import fcntl
import io
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from framegate.pipeline.recording.adopt_files import segment_of
from framegate.pipeline.recording.index import Segment
from framegate.pipeline.recording.index_tables import PRIVATE_FILE
from framegate.pipeline.recording.mp4_boxes import FileContents, Fragment, Head
from framegate.pipeline.recording.recorder_states import OPEN
from framegate.pipeline.system.replaced_file import sync_folder

SEGMENT_S: Final = 4.0  # of media after which a key frame ends a segment
LONGEST_S: Final = 60.0  # of media, or by the clock, after which any frame ends it
MAX_BYTES: Final = 256 << 20
_HAIR_S: Final = 1e-3


@dataclass(slots=True)
class GrowingSegment:
    """A segment that is being written, and everything that its row will contain.

    file         locked and without a buffer, so that a failed write is reported at once
    path         its final path
    begins_run   time or the decoders' parameters changed before it
    """

    file: io.FileIO
    path: Path
    epoch: int
    init: bytes
    info: Head
    head: int
    nbytes: int
    begins_run: bool
    began_mono: float = field(default_factory=time.monotonic)
    fragments: list[tuple[Fragment, float]] = field(default_factory=list)

    @property
    def open_path(self) -> Path:
        """Return the path while the segment grows."""
        return open_path(self.path)

    def row(self, source: str) -> Segment:
        """Return the row that the index would get now."""
        fragments = tuple(self.fragments)
        contents = FileContents(self.init, self.info, self.head, self.nbytes, fragments)
        return segment_of(contents, source, self.path)

    def is_long(self, content: Fragment) -> bool:
        """Return whether to finish the segment before this fragment."""
        seconds = content.dts - self.fragments[0][0].dts
        clock_s = time.monotonic() - self.began_mono
        if content.is_key and max(seconds, clock_s - SEGMENT_S) >= SEGMENT_S:
            return True
        return max(seconds, clock_s) >= LONGEST_S or self.nbytes >= MAX_BYTES

    def began_in(self, row: Segment, pts: float | None) -> bool:
        """Return whether the segment began in the epoch whose first picture is at `pts`.

        If time broke between two key frames, the epoch begins a little before the segment. If its
        first pictures were not decoded in time, it begins a little after.
        """
        if pts is None:
            return True
        if self.begins_run:
            return row.pts - LONGEST_S < pts < row.pts_end
        return abs(pts - row.pts) <= _HAIR_S

    def close(self) -> None:
        """Close the file; everything that must be on disk was synced before."""
        with suppress(OSError):
            self.file.close()


def open_path(path: Path) -> Path:
    """Return the path of a segment's file while it grows."""
    return Path(f"{path}{OPEN}")


def new_file(path: Path) -> io.FileIO:
    """Create a locked file, without a buffer, whose name is on the disk. OSError."""
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE)
    file = io.FileIO(number, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # an adoption may hold the lock for a moment
        sync_folder(path.parent)
    except BaseException:
        file.close()
        path.unlink(missing_ok=True)
        raise
    return file
