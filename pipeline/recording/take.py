"""What a connection of a source gives, written into files that are whole whatever happens.

A segment grows as `NAME.mp4.open`, by whole fragments, each of which is on the disk before the next
one is written, and is locked by who writes it. It is finished at the first key frame after
SEGMENT_S: fsync, renamed to `NAME.mp4`, fsync of its folder, then its row in the index. What a dead
process left is finished by the next one (`adopt`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from framegate.pipeline.recording.boxes import (
    FileContents,
    Fragment,
    Head,
    Mp4Track,
    NotWhole,
    boxes,
    head_box,
    read_file,
    read_fragment,
    read_init,
    time_box,
)
from framegate.pipeline.recording.durable import make_folder, put, remove_empty, sync_folder
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.recorders import OPEN, RecorderState, RecordingGap
from framegate.pipeline.recording.retention import trim
from framegate.pipeline.recording.tables import FOLDER, RecordingLost
from framegate.pipeline.spec import RecordSpec

log = logging.getLogger(__name__)

SEGMENT_S: Final = 4.0  # least, of its media, before a key frame ends it
LONGEST_S: Final = 60.0  # of its media, or by the clock: then it ends at any frame
MOST_BYTES: Final = 256 << 20
_SUFFIX: Final = ".mp4"
_HAIR_S: Final = 1e-3
_FIRST_ROOM: Final = 8 << 20  # bytes that a first segment may need


class DiskFull(Exception):
    """There is no room for a fragment, and nothing of the recordings may go for it."""


@dataclass(slots=True)
class _Growing:
    """A segment that is being written; `path` is the one that it will have."""

    file: BinaryIO
    path: Path
    epoch: int
    init: bytes
    said: Head
    head: int
    nbytes: int
    began_mono: float
    fragments: list[tuple[Fragment, float]] = field(default_factory=list)

    def contents(self) -> FileContents:
        """What reading the file would give."""
        return FileContents(self.init, self.said, self.head, self.nbytes, tuple(self.fragments))


class Recording:
    """One source's part of a data folder's recordings. Any thread; takes are of one thread each."""

    def __init__(self, data: Path, source: str, spec: RecordSpec) -> None:
        """spec: what limits all recordings of the data folder."""
        self.data, self.source, self.spec = data, source, spec
        self.folder = data / FOLDER / source
        self._lock = threading.Lock()
        self._adopted = False

    def take(self, epoch: int = 0) -> Take:
        """Begin to record what a connection gives. epoch: that it goes on with, 0 if not known."""
        # An episode may be told before the first packets are written, and pins its clip already.
        with contextlib.suppress(OSError):  # it is told where they are written
            make_folder(self.data / FOLDER)
        return Take(self, epoch)

    def index(self) -> Index:
        """Open the index; the first time with what a dead process left."""
        index = Index(self.data)
        with self._lock:
            if not self._adopted:
                adopt(index, self.source)
                self._adopted = True
        return index


class Take:
    """What one connection gives. `tell_epoch` from any thread, the rest in one thread.

    Bytes that cannot be written are lost up to the next key frame, and told as a gap.
    """

    def __init__(self, recording: Recording, epoch: int = 0) -> None:
        self.source = recording.source
        self._recording = recording
        self._index: Index | None = None
        self._epoch = epoch
        self._told: tuple[int, float | None] | None = None
        self._due_from: float | None = None
        self._lock = threading.Lock()
        self._init = b""
        self._tracks: dict[int, Mp4Track] = {}
        self._video: Mp4Track | None = None
        self._head = Head("")
        self._open: _Growing | None = None
        self._room = _FIRST_ROOM
        self._blocked: float | None = None  # captured: since when there is no room
        self._tells_of_file = False  # what was told last

    # -- from the engine's thread

    def tell_epoch(self, epoch: int, pts: float | None, due_from: float | None = None) -> None:
        """What comes from `pts` on, on the source's clock, belongs to this epoch.

        due_from  of a file at its own pace: UNIX seconds at which pts 0 is due
        """
        with self._lock:
            self._told, self._due_from = (epoch, pts), due_from

    # -- from the thread that records

    @property
    def knows_epoch(self) -> bool:
        """Whether what begins now lies under the epoch that it belongs to."""
        with self._lock:
            return bool(self._epoch or self._told)

    @property
    def due_from(self) -> float | None:
        """UNIX seconds at which pts 0 is due; None where what comes is due at once."""
        with self._lock:
            return self._due_from

    def recorded(self) -> tuple[float, float] | None:
        """Up to where pictures and sound of the epoch that this goes on with are recorded: what is
        decoded then or later, seconds of the source's clock, is not there. None: nothing is.
        """
        if not self._epoch:
            return None
        index = self._its_index()
        last = index.last(self.source, self._epoch)
        if last is None:
            return None
        seen, heard = _ends(index.folder / last.path)
        if heard is None:  # it had only begun: its sound may come later, what there is lies before
            sounding = index.last(self.source, self._epoch, sounding=True)
            heard = None if sounding is None else _ends(index.folder / sounding.path)[1]
        return seen, -math.inf if heard is None else heard

    def begin(self, init: bytes, shift_s: float) -> None:
        """Go on with another init part, another clock, or both. NotWhole."""
        self.finish()
        self._tracks = read_init(init)
        self._init = init
        self._video = next((t for t in self._tracks.values() if t.kind == "vide"), None)
        self._head = Head(self.source, shift_s)

    def fragment(self, data: bytes, captured_of: Callable[[float], float]) -> None:
        """Write a fragment, `moof` and `mdat`. captured_of: UNIX seconds of the picture that is
        decoded at so many seconds of the file. NotWhole if it is none.
        """
        moof = next(boxes(data))
        held = read_fragment(data[: moof.end], self._tracks)
        try:
            self._write(data, held, None if held is None else round(captured_of(held.dts), 6))
        except (OSError, DiskFull, RecordingLost) as error:
            self._give_up(error)

    def _write(self, data: bytes, held: Fragment | None, captured: float | None) -> None:
        growing = self._open
        if growing is not None and held is not None and self._is_long(growing, held):
            self.finish()
            growing = None
        if growing is None:
            if held is None or captured is None or not (held.is_key or self._blocked is None):
                return  # a segment begins with a picture, and after a gap with one that is whole
            growing = self._begin_segment(captured)
        more = data if held is None or captured is None else self._timed(held, captured) + data
        before = growing.nbytes
        try:
            growing.file.write(more)
            growing.file.flush()
            os.fdatasync(growing.file.fileno())
        except OSError:
            with suppress(OSError):
                growing.file.truncate(before)  # it stays whole
            raise
        growing.nbytes = before + len(more)
        if held is not None and captured is not None:
            growing.fragments.append((held, captured))
            self._take_epoch(growing)
            if self._blocked is not None:
                self._note_gap(self._blocked, captured, "disk_full")
                self._blocked = None

    def _is_long(self, growing: _Growing, held: Fragment) -> bool:
        seconds = held.dts - growing.fragments[0][0].dts
        clock_s = time.monotonic() - growing.began_mono
        if held.is_key and max(seconds, clock_s - SEGMENT_S) >= SEGMENT_S:
            return True
        return max(seconds, clock_s) >= LONGEST_S or growing.nbytes >= MOST_BYTES

    def _timed(self, held: Fragment, captured: float) -> bytes:
        assert self._video is not None
        return time_box(self._video, captured, held.dts)

    def _begin_segment(self, captured: float) -> _Growing:
        index, spec = self._its_index(), self._recording.spec
        with self._lock:
            if not self._epoch and self._told is not None:
                (self._epoch, _), self._told = self._told, None
        if not trim(index, spec, time.time(), self._room):
            raise DiskFull
        path, file = self._named(captured)
        head = self._init + head_box(self._head)
        self._open = growing = _Growing(
            *(file, path, self._epoch, self._init, self._head),
            *(len(head), len(head), time.monotonic()),
        )
        file.write(head)
        self._tell(growing)
        return growing

    def _named(self, captured: float) -> tuple[Path, BinaryIO]:
        """A new file, locked, with a name that no other has."""
        told = time.gmtime(captured)
        folder = self._recording.folder / str(self._epoch) / time.strftime("%Y-%m-%d", told)
        name = f"{time.strftime('%H%M%S', told)}.{int(captured % 1 * 1000):03}"
        make_folder(folder)
        for n in range(10_000):
            path = folder / f"{name}{f'-{n}' if n else ''}{_SUFFIX}"
            if path.exists():
                continue
            with suppress(FileExistsError):
                file = open(f"{path}{OPEN}", "xb")  # noqa: SIM115  # closed when it is finished
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                sync_folder(folder)
                return path, file
        raise FileExistsError(f"{folder}: too many files of one time")

    def _take_epoch(self, growing: _Growing) -> None:
        """Let what grows belong to the epoch that was told, if that began in it."""
        with self._lock:
            if self._told is None:
                return
            epoch, pts = self._told
            here = segment_of(growing.contents(), self.source, growing.path)
            if self._epoch and pts is not None and not here.pts - _HAIR_S <= pts < here.pts_end:
                return  # it is of what has not been written yet
            self._told = None
        self._epoch = epoch
        if growing.epoch == epoch:
            return
        folder = self._recording.folder / str(epoch) / growing.path.parent.name
        make_folder(folder)
        path = folder / growing.path.name
        if path.exists() or Path(f"{path}{OPEN}").exists():
            return
        os.rename(f"{growing.path}{OPEN}", f"{path}{OPEN}")
        sync_folder(folder)
        remove_empty(growing.path.parent, self._recording.folder)
        growing.path, growing.epoch = path, epoch
        self._tell(growing)

    def finish(self) -> None:
        """Finish the segment that grows, if one does."""
        growing, self._open = self._open, None
        if growing is None:
            return
        try:
            if not growing.fragments:
                os.unlink(f"{growing.path}{OPEN}")
                return
            put(growing.file, Path(f"{growing.path}{OPEN}"), growing.path)
            index = self._its_index()
            index.add([segment_of(growing.contents(), self.source, growing.path)])
        except (OSError, RecordingLost) as error:
            self._give_up(error)
        finally:
            growing.file.close()
        self._room = max(_FIRST_ROOM, 2 * growing.nbytes)

    def _tell(self, growing: _Growing | None = None, why: str | None = None) -> None:
        """Tell those who look how it stands: which file grows, or why none does."""
        self._tells_of_file = growing is not None
        with suppress(RecordingLost):
            index = self._its_index()
            path = None if growing is None else str(growing.path.relative_to(index.folder))
            most = self._recording.spec.bytes
            index.recorders.note(RecorderState(self.source, time.time(), path, why, most))

    def refuse(self, why: str) -> None:
        """Tell that nothing of this connection is recorded, and let the index go."""
        log.warning("source %s is not recorded: %s", self.source, why)
        self._tell(why=why)
        self.close()

    def lost(self, since: float, until: float, why: str) -> None:
        """Tell that packets of a time came, UNIX seconds, and were not recorded."""
        self._note_gap(since, until, why)

    def close(self) -> None:
        """Finish, and let the index go."""
        try:
            self.finish()
            if self._tells_of_file:
                self._tell()
            if self._blocked is not None:
                self._note_gap(self._blocked, time.time(), "disk_full")
        finally:
            if self._index is not None:
                self._index.close()
                self._index = None

    def _note_gap(self, since: float, until: float, why: str) -> None:
        log.warning("source %s: %.1f s were not recorded: %s", self.source, until - since, why)
        with suppress(RecordingLost):  # it stands in the log, and in what is not there
            self._its_index().recorders.note_gap(RecordingGap(self.source, since, until, why))

    def _give_up(self, error: Exception) -> None:
        """Keep what is whole, and wait for a key frame and for room."""
        growing, self._open = self._open, None
        if self._blocked is None:
            self._blocked = time.time()
            log.warning("source %s: it is not recorded now: %s", self.source, _why(error))
            self._tell(why=_why(error))
        if growing is not None:
            growing.file.close()
            with suppress(OSError, NotWhole, RecordingLost):
                _adopt_one(self._its_index(), self.source, Path(f"{growing.path}{OPEN}"))

    def _its_index(self) -> Index:
        if self._index is None:
            self._index = self._recording.index()
        return self._index


def _ends(path: Path) -> tuple[float, float | None]:
    """Up to where a file holds pictures and sound, on the source's clock; None: it has no sound."""
    with open(path, "rb") as file:
        held = read_file(file)
    shift = held.said.shift_s
    heard = [one.sound - shift for one, _ in held.fragments if one.sound is not None]
    return held.fragments[-1][0].end - shift, max(heard, default=None)


def _why(error: Exception) -> str:
    if isinstance(error, DiskFull):
        return "the disk is full, and there is no older recording that may go"
    return str(error)


def init_digest(init: bytes) -> str:
    """What names an init part: files of the same one follow one another in a player."""
    return hashlib.sha256(init).hexdigest()[:16]


# -- What the folder says.


def adopt(index: Index, source: str) -> int:
    """Take in each file of a source that has no row, and let go of rows whose files are gone; how
    many files that were. Nothing is deleted: what cannot be read stays where it is, and is told.
    """
    known, there = index.paths(source), set()
    adopted = 0
    for path in _files(index.folder / source):
        name = str(path.relative_to(index.folder))
        there.add(name)
        if name in known:
            continue
        try:
            adopted += _adopt_one(index, source, path)
        except (OSError, NotWhole) as error:
            log.warning("source %s: %s is left as it is: %s", source, path.name, error)
    if gone := known - there:
        index.forget(gone)
        log.warning("source %s: %d files of its recording are gone", source, len(gone))
    return adopted


def rebuild(index: Index) -> int:
    """Take in all files of all sources that have no row."""
    folders = [each for each in index.folder.iterdir() if each.is_dir()]
    return sum(adopt(index, folder.name) for folder in sorted(folders))


def _files(folder: Path) -> Iterator[Path]:
    """The oldest first: while an index is made again, what it has begins with the oldest."""
    found = [path for path in folder.glob("*/*/*") if _is_ours(path)]
    yield from sorted(found, key=lambda path: (_epoch_of(path), path.parts[-2:]))


def _epoch_of(path: Path) -> int:
    name = path.parts[-3]
    return int(name) if name.isdecimal() else 0


def _is_ours(path: Path) -> bool:
    return path.name.endswith((_SUFFIX, f"{_SUFFIX}{OPEN}"))


def _adopt_one(index: Index, source: str, path: Path) -> bool:
    """Take in one file; False if somebody writes it."""
    is_open = path.name.endswith(OPEN)
    with open(path, "r+b") as file:
        if is_open:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        held = read_file(file)
        if is_open:
            file.truncate(held.nbytes)
            grown, path = path, path.with_name(path.name.removesuffix(OPEN))
            put(file, grown, path)
    index.add([segment_of(held, source, path)])
    return True


def segment_of(held: FileContents, source: str, path: Path) -> Segment:
    """The row of a file, by what is in it and where it lies."""
    (first, captured), (last, captured_last) = held.fragments[0], held.fragments[-1]
    shift = held.said.shift_s
    return Segment(
        path="/".join((source, *path.parts[-3:])),
        source=source,
        epoch=_epoch_of(path),
        pts=round(first.pts - shift, 6),
        pts_end=round(max(one.pts_end for one, _ in held.fragments) - shift, 6),
        shift_s=shift,
        captured=captured,
        captured_end=round(captured_last + last.end - last.dts, 6),
        nbytes=held.nbytes,
        head=held.head,
        init=init_digest(held.init),
        is_key=first.is_key,
        sound=any(one.sound is not None for one, _ in held.fragments),
    )
