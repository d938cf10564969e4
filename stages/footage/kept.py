"""Footage that a run kept: pictures in DATA/footage/SOURCE, each with what is known of it inside.

A frame is one file, EPOCH-SEQ.jpg: a JPEG whose first comment is a KeptFrame in JSON. It is written
beside under another name and takes its own when it is whole, so that whoever is killed leaves no
picture without its record and no record without its picture. Nothing waits for the disk: a power
cut may cost the last pictures, and one that it cut short is told by its length and left out.

The picture's planes go into the JPEG as they are. Other programs take them for full range BT.601,
which is near enough to look at; `read_picture` knows better, and `as_photograph` mends it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import cv2
import msgspec
import numpy as np

from framegate.models.errors import PictureDamaged
from framegate.models.picture import Matrix, Picture
from framegate.models.picture_coding import Coding, decode, encode
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.system.clocks import (
    HostClock,
    KeptTime,
    first_kept_time,
    kept_time,
    read_host_clock,
)

FOLDER: Final = "footage"  # in a run's data folder
CODING: Final = Coding(scale=2, longest=1920)
DAY_S: Final = 86400

Why = Literal["even", "audit", "heavy", "doubt", "change"]
WHYS: Final[tuple[Why, ...]] = get_args(Why)

_NAME: Final = re.compile(r"(\d+)-(\d+)\.jpg")
_NEW: Final = re.compile(r"\d+-\d+\.new")
_MARK: Final = b"framegate footage "
_MOST_OBJECTS: Final = 1000  # of a record
_COMMENT: Final = 65533  # bytes that a comment of JPEG holds
_HEAD: Final = 4096  # bytes: most records are shorter
_CLOCK: Final = "clock"  # beside the sources' folders
_STORED_S: Final = 3600.0
_FREE: Final = 256 << 20  # bytes of the disk that are left to the run's store


class KeptObject(msgspec.Struct, frozen=True, array_like=True):
    """An object of a kept frame; box: left, top, right, bottom in pixels of the kept picture."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class KeptFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a kept frame.

    moment_s        seconds on the source's clock: UNIX time of a camera's, a file's own time
    kept_at         UNIX seconds at which it was written, by the footage's kept time (see `clocks`)
    why             even: evenly spaced. audit: drawn for the promise. heavy: the heavy pass was
                    asked about it. doubt: somebody should have been. change: another scene began
    width, height   of the picture, pixels
    matrix, full_range   of its planes: see models.picture
    served          what was published of it, and by which models
    heavy           what the heavy pass said of it; None: it was not asked, or did not answer
    jpeg_bytes      of the file without this record
    """

    source: str
    epoch: int
    seq: int
    moment_s: float
    kept_at: float
    why: Why
    width: int
    height: int
    matrix: Matrix
    full_range: bool
    served: tuple[KeptObject, ...] = ()
    served_by: tuple[str, ...] = ()
    heavy: tuple[KeptObject, ...] | None = None
    heavy_models: tuple[str, ...] = ()
    jpeg_bytes: int = 0
    v: int = 1


class KeptFile(NamedTuple):
    """A kept frame on disk; nbytes: of the file."""

    path: Path
    nbytes: int
    record: KeptFrame


_decode = msgspec.json.Decoder(KeptFrame).decode


def blanked(picture: Picture, polygons: Sequence[Sequence[Sequence[float]]]) -> Picture:
    """The picture with what lies in these polygons, in its pixels, made grey."""
    if not polygons:
        return picture
    inside = np.zeros((picture.height, picture.width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(inside, [np.rint(np.array(polygon, np.float64)).astype(np.int32)], 1)
    rows, columns = picture.u.shape
    even = np.zeros((2 * rows, 2 * columns), np.uint8)
    even[: picture.height, : picture.width] = inside
    # A sample of colour goes where any pixel that it is of goes.
    half = even.reshape(rows, 2, columns, 2).max(axis=(1, 3)).astype(bool)
    grey = np.uint8(128)
    return Picture(
        np.where(inside.astype(bool), grey, picture.y),
        np.where(half, grey, picture.u),
        np.where(half, grey, picture.v),
        picture.matrix,
        picture.full_range,
    )


def with_record(jpeg: bytes, record: KeptFrame) -> bytes:
    """The JPEG with the record in it; of more objects than a comment holds, the first ones."""
    most = _MOST_OBJECTS
    while True:
        heavy = None if record.heavy is None else record.heavy[:most]
        told = msgspec.structs.replace(
            record, served=record.served[:most], heavy=heavy, jpeg_bytes=len(jpeg)
        )
        said = _MARK + msgspec.json.encode(told)
        if len(said) <= _COMMENT:
            break
        most //= 2
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(said) + 2) + said + jpeg[2:]


def read_record(path: Path) -> KeptFile | None:
    """The frame in a file; None where it is not one of ours, not whole, or of a newer Framegate."""
    found = _NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if len(head) == _HEAD:
                (length,) = struct.unpack(">H", head[4:6])
                head += file.read(max(0, 4 + length - _HEAD))
            nbytes = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    start = 6 + len(_MARK)
    if found is None or head[:4] != b"\xff\xd8\xff\xfe" or head[6:start] != _MARK:
        return None
    (length,) = struct.unpack(">H", head[4:6])
    try:
        record = _decode(head[start : 4 + length])
    except msgspec.MsgspecError:
        return None
    whole = nbytes == record.jpeg_bytes + 2 + length
    same = (record.epoch, record.seq) == (int(found[1]), int(found[2]))
    same = same and record.source == path.parent.name
    return KeptFile(path, nbytes, record) if whole and same and record.v == 1 else None


def read_picture(kept: KeptFile) -> Picture:
    """The picture as it was stored. PictureDamaged, also where the file has gone meanwhile."""
    try:
        data = kept.path.read_bytes()
    except OSError as error:
        raise PictureDamaged(0) from error
    return decode(data, kept.record.matrix, kept.record.full_range)


class SourceFootage(NamedTuple):
    """What is in the footage of one source.

    files       its frames in the order of their times
    unreadable  files with a frame's name that hold none: cut short, or not ours
    """

    files: tuple[KeptFile, ...]
    unreadable: tuple[Path, ...]


def kept_frames(data: Path) -> dict[str, SourceFootage]:
    """What a run kept in its data folder, by source; it may go on meanwhile."""
    found: dict[str, SourceFootage] = {}
    for folder in _entries(data / FOLDER):
        if not is_name(folder.name) or not folder.is_dir() or folder.is_symlink():
            continue
        files: list[KeptFile] = []
        unreadable: list[Path] = []
        for path in _entries(folder):
            if _NAME.fullmatch(path.name) is None or path.is_symlink():
                continue
            kept = read_record(path)
            if kept is not None:
                files.append(kept)
            elif path.exists():
                unreadable.append(path)
        files.sort(key=_when)
        if files or unreadable:
            found[folder.name] = SourceFootage(tuple(files), tuple(unreadable))
    return found


def _when(kept: KeptFile) -> tuple[float, int, int]:
    return kept.record.moment_s, kept.record.epoch, kept.record.seq


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


# -- What goes where there is too much.


_GOES_FIRST: Final[tuple[Why, ...]] = ("change", "doubt", "heavy", "even", "audit")
_SPARE: Final = 0.95  # of the bytes, once some had to go


@dataclass(frozen=True, slots=True)
class Limits:
    """nbytes: of all sources' footage together, at most. days: for which it is kept."""

    nbytes: int
    days: float


def surplus(files: Iterable[KeptFile], limits: Limits, now: float) -> list[KeptFile]:
    """Which of them have to go, at UNIX time `now`. Pure.

    What is too old goes. If the rest is too much: of the source with the most bytes, of that one's
    day (UTC) with the most, the kind that is least useful (a change, doubt, a heavy answer, evenly
    spaced, an audit) and of that kind the frame that leaves the smallest gap in that day. So every
    source and every day keeps about as much as the others, and a day keeps what is spread over it.
    """
    gone: list[KeptFile] = []
    days: dict[str, dict[int, list[KeptFile]]] = {}
    total = 0
    for kept in files:
        if kept.record.kept_at < now - limits.days * DAY_S:
            gone.append(kept)
            continue
        total += kept.nbytes
        day = int(kept.record.kept_at // DAY_S)
        days.setdefault(kept.record.source, {}).setdefault(day, []).append(kept)
    if total <= limits.nbytes:
        return gone
    sums = {
        source: {day: sum(one.nbytes for one in group) for day, group in own.items()}
        for source, own in days.items()
    }
    for own in days.values():
        for group in own.values():
            group.sort(key=lambda one: (one.record.kept_at, one.record.epoch, one.record.seq))
    while total > _SPARE * limits.nbytes:
        source = max(sorted(sums), key=lambda name: sum(sums[name].values()))
        day = max(sorted(sums[source]), key=lambda one: sums[source][one])
        group = days[source][day]
        goes = group.pop(_least_useful(group))
        gone.append(goes)
        total -= goes.nbytes
        sums[source][day] -= goes.nbytes
    return gone


def _least_useful(group: Sequence[KeptFile]) -> int:
    """Its place among the frames of a day, which are in the order of their times."""
    times = np.array([one.record.kept_at for one in group])
    gaps = np.diff(times, prepend=-np.inf, append=np.inf)
    left_open = gaps[:-1] + gaps[1:]
    kinds = np.array([_GOES_FIRST.index(one.record.why) for one in group])
    return int(np.lexsort((times, left_open, kinds))[0])


# -- The footage of a run that goes on.


@dataclass(slots=True)
class Keeper:
    """Writes kept frames below a run's data folder, and lets go of what is too much. One thread.

    last  the newest frame of each source, by which what did not move is told
    clock  reads the clocks of this host
    """

    data: Path
    limits: Limits
    clock: Callable[[], HostClock] = read_host_clock
    _time: KeptTime | None = None
    _stored: KeptTime | None = None
    _files: dict[Path, KeptFile] = field(default_factory=dict)
    _nbytes: int = 0

    def open(self) -> Mapping[str, KeptFile]:
        """Take up what is there; the newest frame of each source. What a killed one left goes."""
        for folder in _entries(self.data / FOLDER):
            for path in _entries(folder):
                if _NEW.fullmatch(path.name):
                    with contextlib.suppress(OSError):
                        path.unlink()
        newest: dict[str, KeptFile] = {}
        for source, kept in kept_frames(self.data).items():
            self._files |= {one.path: one for one in kept.files}
            if kept.files:
                newest[source] = max(kept.files, key=lambda one: one.record.kept_at)
        self._nbytes = sum(one.nbytes for one in self._files.values())
        return newest

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        return self._nbytes

    def keep(self, jpeg: bytes, record: KeptFrame) -> None:
        """Write one frame; a frame that is there already is replaced. OSError."""
        folder = self.data / FOLDER / record.source
        path = folder / f"{record.epoch}-{record.seq}.jpg"
        new = path.with_suffix(".new")
        data = with_record(jpeg, record)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < _FREE + len(data):
            raise OSError(errno.ENOSPC, f"less than {_FREE >> 20} MB are left on this disk")
        try:
            with open(new, "wb", opener=_private) as file:
                file.write(data)
            new.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        if before := self._files.get(path):
            self._nbytes -= before.nbytes
        self._files[path] = KeptFile(path, len(data), record)
        self._nbytes += len(data)

    def now(self) -> float:
        """Return the kept time of the footage, which is UNIX time as long as no clock steps."""
        reading = self.clock()
        if self._time is None:
            self._time = self._stored = self._stored_time()
        before = self._time
        self._time = first_kept_time(reading) if before is None else kept_time(before, reading)
        return self._time.kept_s

    def _stored_time(self) -> KeptTime | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.data / FOLDER / _CLOCK).read_bytes(), type=KeptTime)
        return None

    def _store_time(self) -> None:
        """Store the kept time once an hour, and after each boot: so it goes on after a restart."""
        time, stored = self._time, self._stored
        if time is None:
            return
        is_new = stored is None or stored.host.boot != time.host.boot
        if stored is not None and not is_new and time.kept_s - stored.kept_s < _STORED_S:
            return
        file = self.data / FOLDER / _CLOCK
        new = file.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(msgspec.json.encode(time))
            new.replace(file)
            self._stored = time

    def tidy(self, now: float) -> int:
        """Let go of what is too old or too much, at the kept time `now`; how many frames went."""
        self._store_time()
        oldest = min((one.record.kept_at for one in self._files.values()), default=now)
        if self._nbytes <= self.limits.nbytes and oldest >= now - self.limits.days * DAY_S:
            return 0
        for path in [path for path in self._files if not path.exists()]:  # a user deleted them
            self._forget(path)
        gone = surplus(self._files.values(), self.limits, now)
        for kept in gone:
            with contextlib.suppress(OSError):
                kept.path.unlink(missing_ok=True)
                self._forget(kept.path)
        return len(gone)

    def _forget(self, path: Path) -> None:
        self._nbytes -= self._files.pop(path).nbytes


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def jpeg_of(picture: Picture) -> tuple[bytes, tuple[int, int]]:
    """The picture as it is kept, and its size there: what is larger than 1920 pixels is shrunk."""
    data = encode(picture, CODING)
    scale = min(1.0, CODING.longest / max(picture.width, picture.height))
    if scale == 1.0:
        return data, (picture.width, picture.height)
    small = decode(data, picture.matrix, picture.full_range)
    return data, (small.width, small.height)
