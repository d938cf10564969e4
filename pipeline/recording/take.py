"""What a connection of a source gives, written into files that are whole whatever happens.

A segment grows as `NAME.mp4.open`, by whole fragments, each of which is on the disk before the next
one is written, and is locked by who writes it. It is finished at the first key frame after
SEGMENT_S: fsync, renamed to `NAME.mp4`, fsync of its folder, then its row in the index. What a dead
process left, and what could not be finished, is taken in later (`adoption`).

Whatever cannot be written costs a gap, which has a reason, and never the rest of the recording: the
next key frame begins the next file.
"""

from __future__ import annotations

import fcntl
import io
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.adoption import (
    adopt,
    adopt_file,
    ends,
    rebuild,
    segment_of,
)
from framegate.pipeline.recording.boxes import (
    FileContents,
    Fragment,
    Head,
    Mp4Track,
    NotWhole,
    boxes,
    head_box,
    read_fragment,
    read_init,
    time_box,
    writable,
)
from framegate.pipeline.recording.durable import (
    make_folder,
    put,
    remove_empty,
    sync_folder,
    write_all,
)
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.recorders import OPEN, SUFFIX, RecorderState, RecordingGap
from framegate.pipeline.recording.retention import trim
from framegate.pipeline.recording.tables import (
    FOLDER,
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    GapReason,
    RecordingLost,
    gap_reason,
    repeat_if_replaced,
)

log = logging.getLogger(__name__)

SEGMENT_S: Final = 4.0  # least, of its media, before a key frame ends it
LONGEST_S: Final = 60.0  # of its media, or by the clock: then it ends at any frame
MOST_BYTES: Final = 256 << 20
ADOPTION_S: Final = 1.0  # for which recording waits until files without a row are taken in
_LOOK_AGAIN_S: Final = 60.0  # least, from one look for such files to the next
_MOST_GAPS: Final = 100  # that wait until the index takes them
_HAIR_S: Final = 1e-3
_FIRST_ROOM: Final = 8 << 20  # bytes that a first segment may need


class DiskFull(RecordingLost):
    """There is no room for a fragment, and nothing of the recordings may go for it."""

    def __init__(self) -> None:
        super().__init__(
            "the disk is full, and there is no older recording that may go", "disk_full"
        )


class _Blocked(NamedTuple):
    """Since when nothing can be written, UNIX seconds as `captured` has them, and why."""

    since: float
    reason: GapReason


@dataclass(slots=True)
class _Growing:
    """A segment that is being written; `path` is the one that it will have. begins_run: time, or
    what decoders need, broke before it.
    """

    file: io.FileIO
    path: Path
    epoch: int
    init: bytes
    said: Head
    head: int
    nbytes: int
    began_mono: float
    begins_run: bool
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
        self._is_adopted = False
        self._adoption: threading.Thread | None = None
        self._looked_mono = -math.inf
        self._gaps: list[RecordingGap] = []

    def take(self, epoch: int = 0) -> Take:
        """Begin to record what a connection gives. epoch: that it goes on with, 0 if not known."""
        # An episode may be told before the first packets are written, and pins its clip already.
        with suppress(OSError):  # it is told where they are written
            make_folder(self.data / FOLDER, PRIVATE_FOLDER)
        return Take(self, epoch)

    # -- files without a row

    def look_again(self) -> None:
        """Note that a file was left without a row."""
        with self._lock:
            self._is_adopted = False

    def see_to_rows(self, index: Index) -> None:
        """Add the rows that are missing, in a thread beside the one that records, which waits for
        ADOPTION_S at most.
        """
        with self._lock:
            is_due = time.monotonic() - self._looked_mono > _LOOK_AGAIN_S
            is_busy = self._adoption is not None and self._adoption.is_alive()
            if is_busy or not is_due or (self._is_adopted and index.is_whole):
                return
            self._is_adopted, self._looked_mono = True, time.monotonic()
            name = f"adopt-{self.source}"
            adoption = self._adoption = threading.Thread(target=self._adopt, name=name, daemon=True)
        adoption.start()
        adoption.join(ADOPTION_S)

    def _adopt(self) -> None:
        try:
            with closing(Index(self.data)) as index:
                adopt(index, self.source)
                if not index.is_whole:
                    log.warning("the index of recordings has %d more files again", rebuild(index))
        except (OSError, RecordingLost) as error:
            log.warning("source %s: files that have no row yet: %s", self.source, error)
            self.look_again()

    # -- gaps

    def note_gap(self, index: Callable[[], Index], gap: RecordingGap) -> None:
        """Note a gap in the index, after those that it did not take before."""
        with self._lock:
            self._gaps = [*self._gaps, gap][-_MOST_GAPS:]
        self.note_waiting(index)

    def note_waiting(self, index: Callable[[], Index]) -> None:
        """Note the gaps that the index did not take before."""
        with self._lock:
            waiting, self._gaps = self._gaps, []
        try:
            while waiting:
                repeat_if_replaced(lambda: index().recorders.note_gap(waiting[0]))
                del waiting[0]
        except RecordingLost as error:
            log.warning("source %s: a gap is not noted yet: %s", self.source, error)
            with self._lock:
                self._gaps = [*waiting, *self._gaps][-_MOST_GAPS:]


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
        self._begins_run = False
        self._open: _Growing | None = None
        self._room = _FIRST_ROOM
        self._blocked: _Blocked | None = None
        self._seen: float | None = None  # captured: when the last picture that came ends
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

        An earlier decoder of a file may have had its epoch, and died before its first commit.
        """
        with self._lock:
            told = 0 if self._told is None else self._told[0]
        epoch = self._epoch or told
        if not (self._recording.folder / str(epoch)).is_dir():
            return None
        try:
            return repeat_if_replaced(partial(self._recorded, epoch))
        except (OSError, NotWhole, RecordingLost) as error:  # to record twice is the lesser harm
            log.warning("source %s: it is recorded from its start: %s", self.source, error)
            return None

    def _recorded(self, epoch: int) -> tuple[float, float] | None:
        index = self._its_index()
        adopt(index, self.source)
        last = index.last(self.source, epoch)
        if last is None:
            return None
        seen, heard = ends(index.folder / last.path)
        if heard is None:  # it had only begun: its sound may come later, what there is lies before
            sounding = index.last(self.source, epoch, sounding=True)
            heard = None if sounding is None else ends(index.folder / sounding.path)[1]
        return seen, -math.inf if heard is None else heard

    def begin(self, init: bytes, shift_s: float) -> None:
        """Go on with another init part, another clock, or both. NotWhole."""
        self.finish()
        self._tracks = read_init(init)
        self._init = init
        self._video = next((t for t in self._tracks.values() if t.kind == "vide"), None)
        self._head = Head(self.source, shift_s)
        self._begins_run = True

    def fragment(self, data: bytes, captured_of: Callable[[float], float]) -> None:
        """Write a fragment, `moof` and `mdat`. captured_of: UNIX seconds of the picture that is
        decoded at so many seconds of the file. NotWhole if it is none.
        """
        moof = next(boxes(data))
        held = read_fragment(data[: moof.end], self._tracks)
        captured = None if held is None else writable(captured_of(held.dts))
        try:
            self._write(data, held, captured)
        except (OSError, RecordingLost) as error:
            self._give_up(error, captured)
        if held is not None and captured is not None:
            self._seen = captured + held.end - held.dts

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
        try:
            write_all(growing.file, more)
            os.fdatasync(growing.file.fileno())
        except OSError:
            with suppress(OSError):  # else who takes the file in cuts it
                growing.file.truncate(growing.nbytes)
            raise
        growing.nbytes += len(more)
        if held is not None and captured is not None:
            growing.fragments.append((held, captured))
            self._begins_run = False
            self._take_epoch(growing)
            if self._blocked is not None:
                self.lost(self._blocked.since, captured, self._blocked.reason)
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
        with self._lock:
            if not self._epoch and self._told is not None:
                (self._epoch, _), self._told = self._told, None
        repeat_if_replaced(self._make_room)
        path, file = self._named(captured)
        head = self._init + head_box(self._head)
        self._open = growing = _Growing(
            *(file, path, self._epoch, self._init, self._head),
            *(len(head), len(head), time.monotonic(), self._begins_run),
        )
        write_all(file, head)
        self._tell(growing)
        return growing

    def _make_room(self) -> None:
        index = self._its_index()
        self._recording.see_to_rows(index)
        self._recording.note_waiting(self._its_index)
        if not trim(index, self._recording.spec, self.source, self._room):
            raise DiskFull

    def _named(self, captured: float) -> tuple[Path, io.FileIO]:
        """A new file, locked, with a name that no other has."""
        told = time.gmtime(captured)
        folder = self._recording.folder / str(self._epoch) / time.strftime("%Y-%m-%d", told)
        name = f"{time.strftime('%H%M%S', told)}.{int(captured % 1 * 1000):03}"
        make_folder(folder)
        for n in range(10_000):
            path = folder / f"{name}{f'-{n}' if n else ''}{SUFFIX}"
            if path.exists():
                continue
            with suppress(FileExistsError):
                return path, _new_file(Path(f"{path}{OPEN}"))
        raise FileExistsError(f"{folder}: too many files of one time")

    def _take_epoch(self, growing: _Growing) -> None:
        """Move the growing file to the epoch that was announced if it began in it; else the next
        file gets that epoch.
        """
        with self._lock:
            if self._told is None:
                return
            epoch, pts = self._told
            here = segment_of(growing.contents(), self.source, growing.path)
            is_here = pts is None or _began_in(growing, here, pts) or here.pts < pts < here.pts_end
            if self._epoch and not is_here:
                return  # it is of what has not been written yet
            self._told = None
        self._epoch = epoch
        if growing.epoch == epoch or (growing.epoch and not _began_in(growing, here, pts)):
            return
        folder = self._recording.folder / str(epoch) / growing.path.parent.name
        make_folder(folder)
        path = folder / growing.path.name
        if path.exists() or Path(f"{path}{OPEN}").exists():
            return
        os.rename(f"{growing.path}{OPEN}", f"{path}{OPEN}")
        old, growing.path, growing.epoch = growing.path, path, epoch
        sync_folder(folder)
        remove_empty(old.parent, self._recording.folder)
        self._tell(growing)

    def finish(self) -> None:
        """Finish the segment that grows, if one does. What cannot be finished is whole, and is
        taken in later.
        """
        growing, self._open = self._open, None
        if growing is None:
            return
        try:
            if growing.fragments:
                put(growing.file, Path(f"{growing.path}{OPEN}"), growing.path)
                self._add_row(growing)
            else:
                os.unlink(f"{growing.path}{OPEN}")
        except (OSError, RecordingLost) as error:
            log.warning("source %s: %s is finished later: %s", self.source, growing.path, error)
            self._recording.look_again()
        finally:
            _close(growing.file)
        self._room = max(_FIRST_ROOM, 2 * growing.nbytes)

    def _add_row(self, growing: _Growing) -> None:
        row = segment_of(growing.contents(), self.source, growing.path)
        repeat_if_replaced(lambda: self._its_index().add([row]))

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

    def lost(self, since: float, until: float, why: GapReason) -> None:
        """Tell that packets of a time came, UNIX seconds, and were not recorded."""
        log.warning("source %s: %.1f s were not recorded: %s", self.source, until - since, why)
        gap = RecordingGap(self.source, writable(since), writable(until), why)
        self._recording.note_gap(self._its_index, gap)

    def close(self) -> None:
        """Finish, and let the index go."""
        try:
            self.finish()
            if self._tells_of_file:
                self._tell()
            if self._blocked is not None:
                until = self._blocked.since if self._seen is None else self._seen
                self.lost(self._blocked.since, until, self._blocked.reason)
                self._blocked = None
        finally:
            if self._index is not None:
                self._index.close()
                self._index = None

    def _give_up(self, error: OSError | RecordingLost, captured: float | None) -> None:
        """Keep what is whole, and wait for a key frame that can be written.

        captured: of what could not be written, if there are pictures in it
        """
        growing, self._open = self._open, None
        if self._blocked is None:
            since = next(at for at in (captured, self._seen, time.time()) if at is not None)
            self._blocked = _Blocked(since, gap_reason(error))
            log.warning("source %s: it is not recorded now: %s", self.source, error)
            self._tell(why=str(error))
        if growing is None:
            return
        _close(growing.file)
        path = Path(f"{growing.path}{OPEN}")
        try:
            if growing.fragments:
                adopt_file(self._its_index(), path, self.source)
            else:
                path.unlink(missing_ok=True)
        except (OSError, NotWhole, RecordingLost):
            self._recording.look_again()

    def _its_index(self) -> Index:
        if self._index is None:
            self._index = Index(self._recording.data)
        return self._index


def _began_in(growing: _Growing, here: Segment, pts: float | None) -> bool:
    """Return whether what grows began in the epoch whose first picture is at `pts`.

    Where time broke between two key frames, the epoch begins a little before the file does; where
    its first pictures were not decoded in time, a little after.
    """
    if pts is None:
        return True
    if growing.begins_run:
        return here.pts - LONGEST_S < pts < here.pts_end
    return abs(pts - here.pts) <= _HAIR_S


def _new_file(path: Path) -> io.FileIO:
    """Make a file, locked, whose name is on the disk; it has no buffer, so that what could not be
    written fails where it is written. OSError.
    """
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE)
    file = io.FileIO(number, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # who looks for files to take in has it for a moment
        sync_folder(path.parent)
    except BaseException:
        _close(file)
        path.unlink(missing_ok=True)
        raise
    return file


def _close(file: io.FileIO) -> None:
    with suppress(OSError):  # what was to be on the disk was synced before
        file.close()
