"""Write the packets of a source's connection into files that are whole at every moment.

Invariants:

- A growing segment `NAME.mp4.open` is locked by its writer and consists of whole fragments, each
  synced before the next is written. So a crash loses at most the fragment in hand.
- A segment is finished at the first key frame after SEGMENT_S (`open_segment`): fsync, rename to
  `NAME.mp4`, fsync of its folder, then its row in the index. A row therefore never names an
  unfinished file.
- Files that a crash or an error leaves without a row get one later (`adopt_files`).
- A failed write costs a gap, which is noted with its reason. The next key frame begins a new file.
"""

from __future__ import annotations

import io
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.adopt_files import (
    adopt,
    adopt_file,
    ends,
    rebuild,
)
from framegate.pipeline.recording.alignment import Alignment
from framegate.pipeline.recording.durable import (
    make_folder,
    put,
    remove_empty,
    write_all,
)
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import (
    FOLDER,
    PRIVATE_FOLDER,
    GapReason,
    RecordingLost,
    gap_reason,
    repeat_if_replaced,
)
from framegate.pipeline.recording.mp4_boxes import (
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
from framegate.pipeline.recording.open_segment import GrowingSegment, new_file, open_path
from framegate.pipeline.recording.recorder_states import SUFFIX, RecorderState, RecordingGap
from framegate.pipeline.recording.retention import trim
from framegate.pipeline.system.replaced_file import sync_folder

log = logging.getLogger(__name__)

ADOPTION_S: Final = 1.0  # the longest time that recording waits for the adoption of files
_LOOK_AGAIN_S: Final = 60.0  # the least time between two searches for files without a row
_MAX_GAPS: Final = 100  # that wait for the index
_FIRST_ROOM: Final = 8 << 20  # bytes that a first segment may need


class DiskFull(RecordingLost):
    """There is no room for a fragment, and removing recordings does not make it."""

    def __init__(self) -> None:
        super().__init__(
            "the disk is full (record.free_bytes stay free), and removing recordings does not help",
            "disk_full",
        )


class _Blocked(NamedTuple):
    """The start of a time without recording, UNIX seconds on `captured`'s clock, and its cause."""

    since: float
    reason: GapReason


class Recording:
    """The recordings of one source in a data folder. Any thread; each take has one thread."""

    def __init__(self, data: Path, source: str, spec: RecordSpec) -> None:
        """spec: the limits of all recordings in the data folder."""
        self.data = data
        self.source = source
        self.spec = spec
        self.folder = data / FOLDER / source
        self._lock = threading.Lock()
        self._is_adopted = False
        self._adoption: threading.Thread | None = None
        self._looked_mono = -math.inf
        self._gaps: list[RecordingGap] = []

    def take(self, epoch: int = 0, alignment: Alignment | None = None) -> Take:
        """Begin to record a connection.

        epoch      that it continues, 0 if unknown
        alignment  of a connection that is not the decoded one
        """
        # An episode may pin its clip before the first packets, so the folder must exist.
        with suppress(OSError):  # the write reports it
            make_folder(self.data / FOLDER, PRIVATE_FOLDER)
        return Take(self, epoch, alignment)

    # -- files without a row

    def look_again(self) -> None:
        """Note that a file was left without a row."""
        with self._lock:
            self._is_adopted = False

    def add_missing_rows(self, index: Index) -> None:
        """Add missing rows in another thread; the caller waits for ADOPTION_S at most."""
        with self._lock:
            is_due = time.monotonic() - self._looked_mono > _LOOK_AGAIN_S
            is_busy = self._adoption is not None and self._adoption.is_alive()
            if is_busy or not is_due or (self._is_adopted and index.is_whole):
                return
            self._is_adopted = True
            self._looked_mono = time.monotonic()
            name = f"adopt-{self.source}"
            adoption = threading.Thread(target=self._adopt, name=name, daemon=True)
            self._adoption = adoption
        try:
            adoption.start()
        except RuntimeError as error:  # the limit of threads is reached
            log.warning("source %s: files without a row remain: %s", self.source, error)
            self.look_again()
            return
        adoption.join(ADOPTION_S)

    def _adopt(self) -> None:
        try:
            with closing(Index(self.data)) as index:
                adopt(index, self.source)
                if not index.is_whole:
                    log.warning("rebuilt the index of recordings: %d files added", rebuild(index))
        except (OSError, RecordingLost) as error:
            log.warning("source %s: files without a row remain: %s", self.source, error)
            self.look_again()

    # -- gaps

    def note_gap(self, index: Callable[[], Index], gap: RecordingGap) -> None:
        """Note a gap in the index, after the gaps that the index refused before."""
        with self._lock:
            self._gaps = [*self._gaps, gap][-_MAX_GAPS:]
        self.note_waiting(index)

    def note_waiting(self, index: Callable[[], Index]) -> None:
        """Note the gaps that the index refused before."""
        with self._lock:
            waiting, self._gaps = self._gaps, []
        try:
            while waiting:
                repeat_if_replaced(lambda: index().recorders.note_gap(waiting[0]))
                del waiting[0]
        except RecordingLost as error:
            log.warning("source %s: a gap is noted later: %s", self.source, error)
            with self._lock:
                self._gaps = [*waiting, *self._gaps][-_MAX_GAPS:]


class Take:
    """The recording of one connection. `announce_epoch` from any thread, the rest in one thread.

    Bytes that cannot be written are lost up to the next key frame, and noted as a gap.

    alignment  of a connection that is not the decoded one: the clock and the epoch of its files
    """

    def __init__(
        self, recording: Recording, epoch: int = 0, alignment: Alignment | None = None
    ) -> None:
        self.source = recording.source
        self.alignment = alignment
        self._recording = recording
        self._index: Index | None = None
        self._epoch = epoch
        self._announced: tuple[int, float | None] | None = None  # an epoch, and its first pts
        self._due_from: float | None = None
        self._lock = threading.Lock()
        self._init = b""
        self._tracks: dict[int, Mp4Track] = {}
        self._video: Mp4Track | None = None
        self._head = Head("")
        self._begins_run = False
        self._open: GrowingSegment | None = None
        self._room = _FIRST_ROOM
        self._blocked: _Blocked | None = None
        self._seen: float | None = None  # captured: the end of the last received picture
        self._reported: str | None = None  # the growing file that the last noted state names

    # -- from the engine's thread

    def announce_epoch(self, epoch: int, pts: float | None, due_from: float | None = None) -> None:
        """Assign packets from `pts` on, on the source's clock, to this epoch.

        due_from  of a file at its own pace: UNIX seconds at which pts 0 is due
        """
        with self._lock:
            self._announced = (epoch, pts)
            self._due_from = due_from

    # -- from the thread that records

    @property
    def knows_epoch(self) -> bool:
        """Return whether a segment that begins now gets its final epoch."""
        with self._lock:
            return bool(self._epoch or self._announced)

    @property
    def due_from(self) -> float | None:
        """Return the UNIX seconds at which pts 0 is due; None: packets are due at once."""
        with self._lock:
            return self._due_from

    def recorded(self) -> tuple[float, float] | None:
        """Return the ends of the recorded pictures, in decoding time, and sound of the continued
        epoch, seconds on the source's clock; None if nothing is recorded.

        An earlier decoder of a file may have begun the epoch and died before its first commit.
        """
        with self._lock:
            epoch = self._epoch
            if not epoch and self._announced is not None:
                epoch = self._announced[0]
        if not (self._recording.folder / str(epoch)).is_dir():
            return None
        try:
            return repeat_if_replaced(partial(self._recorded, epoch))
        except (OSError, NotWhole, RecordingLost) as error:  # recording twice is the lesser harm
            log.warning("source %s: recording again from its start: %s", self.source, error)
            return None

    def _recorded(self, epoch: int) -> tuple[float, float] | None:
        index = self._open_index()
        adopt(index, self.source)
        last = index.last(self.source, epoch)
        if last is None:
            return None
        pictures_end, sound_end = ends(index.folder / last.path)
        if sound_end is None:  # the last file may be cut before its sound: an earlier one counts
            sounding = index.last(self.source, epoch, sounding=True)
            if sounding is not None:
                sound_end = ends(index.folder / sounding.path)[1]
        return pictures_end, -math.inf if sound_end is None else sound_end

    def begin(self, init: bytes, shift_s: float, epoch: int | None = None) -> None:
        """Continue with another init part, another clock, or both. NotWhole.

        epoch: of the pictures from here on; None: the one that was announced
        """
        self.finish()
        if epoch is not None:
            self._epoch = epoch
        self._tracks = read_init(init)
        self._init = init
        videos = (track for track in self._tracks.values() if track.kind == "vide")
        self._video = next(videos, None)
        self._head = Head(self.source, shift_s)
        self._begins_run = True

    def fragment(self, data: bytes, captured_of: Callable[[float], float]) -> None:
        """Write a fragment, `moof` and `mdat`. NotWhole: it is not a fragment.

        captured_of: returns the UNIX seconds of the picture that is decoded at a time of the file.
        """
        moof = next(boxes(data))
        content = read_fragment(data[: moof.end], self._tracks)
        captured = None if content is None else writable(captured_of(content.dts))
        try:
            self._write(data, content, captured)
        except (OSError, RecordingLost) as error:
            self._give_up(error, captured)
        if content is not None and captured is not None:
            self._seen = captured + content.end - content.dts

    def _write(self, data: bytes, content: Fragment | None, captured: float | None) -> None:
        # `content` and `captured` are None for a fragment without pictures.
        growing = self._open
        if growing is not None and content is not None and growing.is_long(content):
            self.finish()
            growing = None
        if growing is None:
            # A segment begins with a picture, and after a gap with one that needs no other.
            if content is None or captured is None:
                return
            if self._blocked is not None and not content.is_key:
                return
            growing = self._begin_segment(captured)
        if content is not None and captured is not None:
            assert self._video is not None
            data = time_box(self._video, captured, content.dts) + data
        try:
            write_all(growing.file, data)
            os.fdatasync(growing.file.fileno())
        except OSError:
            with suppress(OSError):  # otherwise adoption cuts the file
                growing.file.truncate(growing.nbytes)
            raise
        growing.nbytes += len(data)
        if content is not None and captured is not None:
            growing.fragments.append((content, captured))
            self._begins_run = False
            self._take_epoch(growing)
            if self._blocked is not None:
                self.note_loss(self._blocked.since, captured, self._blocked.reason)
                self._blocked = None

    def _begin_segment(self, captured: float) -> GrowingSegment:
        with self._lock:
            if not self._epoch and self._announced is not None:
                self._epoch = self._announced[0]
                self._announced = None
        repeat_if_replaced(self._make_room)
        path, file = self._new_segment(captured)
        head = self._init + head_box(self._head)
        growing = GrowingSegment(
            file=file,
            path=path,
            epoch=self._epoch,
            init=self._init,
            info=self._head,
            head=len(head),
            nbytes=len(head),
            begins_run=self._begins_run,
        )
        self._open = growing
        write_all(file, head)
        self._report(growing)
        return growing

    def _make_room(self) -> None:
        index = self._open_index()
        self._recording.add_missing_rows(index)
        self._recording.note_waiting(self._open_index)
        if not trim(index, self._recording.spec, self.source, self._room):
            raise DiskFull

    def _new_segment(self, captured: float) -> tuple[Path, io.FileIO]:
        """Create a locked file with a name that no other file has."""
        date = time.gmtime(captured)
        folder = self._recording.folder / str(self._epoch) / time.strftime("%Y-%m-%d", date)
        name = f"{time.strftime('%H%M%S', date)}.{int(captured % 1 * 1000):03}"
        for n in range(10_000):
            suffix = f"-{n}" if n else ""
            path = folder / f"{name}{suffix}{SUFFIX}"
            if path.exists():
                continue
            # Retention may remove the folder just now, as long as it is empty.
            with suppress(FileExistsError, FileNotFoundError):
                make_folder(folder)
                return path, new_file(open_path(path))
        raise FileExistsError(f"{folder}: too many files of one time")

    def _take_epoch(self, growing: GrowingSegment) -> None:
        """Move the growing file to the announced epoch if that began in it; otherwise the next file
        gets that epoch.
        """
        with self._lock:
            if self._announced is None:
                return
            epoch, pts = self._announced
            row = growing.row(self.source)
            began_here = growing.began_in(row, pts)
            is_here = began_here or (pts is not None and row.pts < pts < row.pts_end)
            if self._epoch and not is_here:
                return  # its packets are still to be written
            self._announced = None
        self._epoch = epoch
        if growing.epoch == epoch or (growing.epoch and not began_here):
            return
        folder = self._recording.folder / str(epoch) / growing.path.parent.name
        make_folder(folder)
        path = folder / growing.path.name
        if path.exists() or open_path(path).exists():
            return
        os.rename(growing.open_path, open_path(path))
        old_folder = growing.path.parent
        growing.path = path
        growing.epoch = epoch
        sync_folder(folder)
        remove_empty(old_folder, self._recording.folder)
        self._report(growing)

    def finish(self) -> None:
        """Finish the growing segment, if any. One that cannot be finished is adopted later."""
        growing, self._open = self._open, None
        if growing is None:
            return
        try:
            if growing.fragments:
                put(growing.file, growing.open_path, growing.path)
                row = growing.row(self.source)
                repeat_if_replaced(lambda: self._open_index().add([row]))
            else:
                growing.open_path.unlink()
        except (OSError, RecordingLost) as error:
            log.warning(
                "source %s: %s will be finished later: %s", self.source, growing.path, error
            )
            self._recording.look_again()
        finally:
            growing.close()
        # With few bytes and long files, twice the last file could be more than the limit.
        room = min(2 * growing.nbytes, self._recording.spec.bytes // 4)
        self._room = max(_FIRST_ROOM, room)

    def _report(self, growing: GrowingSegment | None = None, why: str | None = None) -> None:
        """Note the state in the index: the growing file, or the reason why there is none."""
        self._reported = None
        with suppress(RecordingLost):
            index = self._open_index()
            path = None if growing is None else str(growing.path.relative_to(index.folder))
            self._reported = path
            max_bytes = self._recording.spec.bytes
            index.recorders.note(RecorderState(self.source, time.time(), path, why, max_bytes))

    def refuse(self, why: str) -> None:
        """Note that this connection is not recorded, and close."""
        log.warning("source %s is not recorded: %s", self.source, why)
        self._report(why=why)
        self.close()

    def note_loss(self, since: float, until: float, why: GapReason) -> None:
        """Note that packets of a time, UNIX seconds, were received and not recorded."""
        log.warning("source %s: %.1f s were not recorded: %s", self.source, until - since, why)
        gap = RecordingGap(self.source, writable(since), writable(until), why)
        self._recording.note_gap(self._open_index, gap)

    def close(self) -> None:
        """Finish the segment and close the index."""
        try:
            self.finish()
            if self._reported is not None:
                with suppress(RecordingLost):
                    recorders = self._open_index().recorders
                    recorders.note_end(self.source, time.time(), self._reported)
                self._reported = None
            if self._blocked is not None:
                until = self._blocked.since if self._seen is None else self._seen
                self.note_loss(self._blocked.since, until, self._blocked.reason)
                self._blocked = None
        finally:
            if self._index is not None:
                self._index.close()
                self._index = None

    def _give_up(self, error: OSError | RecordingLost, captured: float | None) -> None:
        """Keep the whole fragments, and wait for a key frame that can be written.

        captured: of the failed fragment, None if it has no pictures
        """
        growing, self._open = self._open, None
        if self._blocked is None:
            since = next(at for at in (captured, self._seen, time.time()) if at is not None)
            self._blocked = _Blocked(since, gap_reason(error))
            log.warning("source %s: recording stopped: %s", self.source, error)
            self._report(why=str(error))
        if growing is None:
            return
        growing.close()
        try:
            if growing.fragments:
                adopt_file(self._open_index(), growing.open_path, self.source)
            else:
                growing.open_path.unlink(missing_ok=True)
        except (OSError, NotWhole, RecordingLost):
            self._recording.look_again()

    def _open_index(self) -> Index:
        if self._index is None:
            self._index = Index(self._recording.data)
        return self._index
