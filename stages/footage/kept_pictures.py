"""Footage that a run kept: pictures in DATA/footage/SOURCE, each with its record inside.

A frame is one file, EPOCH-SEQ.jpg: a JPEG whose first comment is a KeptFrame in JSON. The file is
written under another name and renamed when it is complete, so a killed process leaves neither a
picture without its record nor a record without its picture. Nothing is synced: a power cut may cost
the last pictures. A truncated file has the wrong length and is skipped.

The JPEG contains the planes of the picture unchanged. Other programs read them as full range
BT.601, which is close enough to look at; `read_picture` uses the real matrix and range.
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
_MAX_OBJECTS: Final = 1000  # of a record
_MAX_COMMENT_BYTES: Final = 65533  # a limit of JPEG
_HEAD_BYTES: Final = 4096  # most records are shorter
_CLOCK: Final = "clock"  # file beside the folders of the sources
_STORE_EVERY_S: Final = 3600.0
_MIN_FREE_BYTES: Final = 256 << 20  # space on the disk that is left to the run's store


class KeptObject(msgspec.Struct, frozen=True, array_like=True):
    """An object of a kept frame.

    box    left, top, right, bottom in pixels of the kept picture
    track  number of its track if a network saw it in this frame; None: a carried or moved object,
           whose box may be wrong, or an object without a track
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    track: int | None = None


class KeptFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a kept frame.

    moment_s        seconds on the source's clock: UNIX time of a camera, or time in a file
    kept_at         UNIX seconds at which it was written, by the footage's kept time (see `clocks`)
    why             even: evenly spaced. audit: drawn for the promise. heavy: the heavy pass was
                    asked about it. doubt: the heavy pass should have been asked. change: another
                    scene began
    width, height   of the picture, pixels
    matrix, full_range   of its planes: see models.picture
    served          published objects; served_by  the models
    heavy           objects of the heavy pass; None: it was not asked, or did not answer
    jpeg_bytes      size of the file without this record
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
    """Return the picture with the inside of these polygons, in its pixels, made grey."""
    if not polygons:
        return picture
    inside = np.zeros((picture.height, picture.width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(inside, [np.rint(np.array(polygon, np.float64)).astype(np.int32)], 1)
    rows, columns = picture.u.shape
    even = np.zeros((2 * rows, 2 * columns), np.uint8)
    even[: picture.height, : picture.width] = inside
    # A colour sample belongs to 2x2 pixels; it becomes grey if any of them does.
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
    """Return the JPEG with the record as its first comment, without the objects that do not fit."""
    n_objects = _MAX_OBJECTS
    while True:
        heavy = record.heavy
        if heavy is not None:
            heavy = heavy[:n_objects]
        short = msgspec.structs.replace(
            record, served=record.served[:n_objects], heavy=heavy, jpeg_bytes=len(jpeg)
        )
        comment = _MARK + msgspec.json.encode(short)
        if len(comment) <= _MAX_COMMENT_BYTES:
            break
        n_objects //= 2
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def read_record(path: Path) -> KeptFile | None:
    """Read the frame of a file; None: not a kept frame, incomplete, or of a newer Framegate."""
    name = _NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if len(head) == _HEAD_BYTES:
                (length,) = struct.unpack(">H", head[4:6])
                head += file.read(max(0, 4 + length - _HEAD_BYTES))
            nbytes = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    start = 6 + len(_MARK)
    if name is None or head[:4] != b"\xff\xd8\xff\xfe" or head[6:start] != _MARK:
        return None
    (length,) = struct.unpack(">H", head[4:6])
    try:
        record = _decode(head[start : 4 + length])
    except msgspec.MsgspecError:
        return None
    is_whole = nbytes == record.jpeg_bytes + 2 + length
    is_named = (record.epoch, record.seq) == (int(name[1]), int(name[2]))
    is_in_place = record.source == path.parent.name
    if not (is_whole and is_named and is_in_place and record.v == 1):
        return None
    return KeptFile(path, nbytes, record)


def read_picture(kept: KeptFile) -> Picture:
    """Decode the picture. Raises PictureDamaged, also if the file was removed meanwhile."""
    try:
        data = kept.path.read_bytes()
    except OSError as error:
        raise PictureDamaged(0) from error
    return decode(data, kept.record.matrix, kept.record.full_range)


class SourceFootage(NamedTuple):
    """The footage of a source.

    files       its frames in the order of their times
    unreadable  files with the name of a frame but without a readable frame
    """

    files: tuple[KeptFile, ...]
    unreadable: tuple[Path, ...]


def kept_frames(data: Path) -> dict[str, SourceFootage]:
    """Return the footage in a run's data folder by source. The run may be active."""
    footage: dict[str, SourceFootage] = {}
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
        files.sort(key=lambda kept: (kept.record.moment_s, kept.record.epoch, kept.record.seq))
        if files or unreadable:
            footage[folder.name] = SourceFootage(tuple(files), tuple(unreadable))
    return footage


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


# -- Removal of old and surplus footage.


_REMOVED_FIRST: Final[tuple[Why, ...]] = ("change", "doubt", "heavy", "even", "audit")
_TARGET: Final = 0.95  # share of the limit to which footage is reduced, so that removals are rare


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the footage of all sources together: size in bytes, and age in days."""

    nbytes: int
    days: float


def surplus(files: Iterable[KeptFile], limits: Limits, now: float) -> list[KeptFile]:
    """Return the files to remove at UNIX time `now`. Pure.

    All files beyond the age limit are removed. If the rest is too large, frames are removed one by
    one: from the source with the most bytes, from its day (UTC) with the most bytes, of the least
    useful kind (change, doubt, heavy, even, audit), the frame that leaves the smallest gap. So all
    sources and days keep about the same size, and the frames of a day are spread over it.
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
    sums: dict[str, dict[int, int]] = {}
    for source, groups in days.items():
        sums[source] = {day: sum(kept.nbytes for kept in group) for day, group in groups.items()}
        for group in groups.values():
            group.sort(key=lambda kept: (kept.record.kept_at, kept.record.epoch, kept.record.seq))
    while total > _TARGET * limits.nbytes:
        source = max(sorted(sums), key=lambda name: sum(sums[name].values()))
        by_day = sums[source]
        day = max(sorted(by_day), key=by_day.__getitem__)
        group = days[source][day]
        removed = group.pop(_least_useful(group))
        gone.append(removed)
        total -= removed.nbytes
        by_day[day] -= removed.nbytes
    return gone


def _least_useful(group: Sequence[KeptFile]) -> int:
    """Return the index of the frame to remove from a day. The frames are in order of time."""
    times = np.array([kept.record.kept_at for kept in group])
    gaps = np.diff(times, prepend=-np.inf, append=np.inf)
    remaining_gaps = gaps[:-1] + gaps[1:]
    kinds = np.array([_REMOVED_FIRST.index(kept.record.why) for kept in group])
    return int(np.lexsort((times, remaining_gaps, kinds))[0])


# -- The footage of an active run.


@dataclass(slots=True)
class Keeper:
    """The writer of a run's footage; it keeps the footage within its limits. One thread.

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
        """Return the newest frame of each source. Delete incomplete files of a killed process."""
        for folder in _entries(self.data / FOLDER):
            for path in _entries(folder):
                if _NEW.fullmatch(path.name):
                    with contextlib.suppress(OSError):
                        path.unlink()
        newest: dict[str, KeptFile] = {}
        for source, kept in kept_frames(self.data).items():
            self._files |= {file.path: file for file in kept.files}
            if kept.files:
                newest[source] = max(kept.files, key=lambda file: file.record.kept_at)
        self._nbytes = sum(file.nbytes for file in self._files.values())
        return newest

    @property
    def nbytes(self) -> int:
        """Size of all kept frames."""
        return self._nbytes

    def keep(self, jpeg: bytes, record: KeptFrame) -> None:
        """Write a frame, and replace an earlier file of the same frame. Raises OSError."""
        folder = self.data / FOLDER / record.source
        path = folder / f"{record.epoch}-{record.seq}.jpg"
        new = path.with_suffix(".new")
        data = with_record(jpeg, record)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES + len(data):
            reason = f"less than {_MIN_FREE_BYTES >> 20} MB are left on this disk"
            raise OSError(errno.ENOSPC, reason)
        try:
            with open(new, "wb", opener=_private) as file:
                file.write(data)
            new.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        if path in self._files:
            self._nbytes -= self._files[path].nbytes
        self._files[path] = KeptFile(path, len(data), record)
        self._nbytes += len(data)

    def now(self) -> float:
        """Return the kept time of the footage, which is UNIX time as long as no clock steps."""
        reading = self.clock()
        if self._time is None:
            self._stored = self._stored_time()
            self._time = self._stored
        if self._time is None:
            self._time = first_kept_time(reading)
        else:
            self._time = kept_time(self._time, reading)
        return self._time.kept_s

    def _stored_time(self) -> KeptTime | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.data / FOLDER / _CLOCK).read_bytes(), type=KeptTime)
        return None

    def _store_time(self) -> None:
        """Store the kept time every hour and after each boot, so that a restart continues it."""
        time = self._time
        stored = self._stored
        if time is None:
            return
        is_same_boot = stored is not None and stored.host.boot == time.host.boot
        if stored is not None and is_same_boot and time.kept_s - stored.kept_s < _STORE_EVERY_S:
            return
        file = self.data / FOLDER / _CLOCK
        new = file.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(msgspec.json.encode(time))
            new.replace(file)
            self._stored = time

    def tidy(self, now: float) -> int:
        """Remove old and surplus frames at the kept time `now`, and return their number."""
        self._store_time()
        oldest = min((kept.record.kept_at for kept in self._files.values()), default=now)
        if self._nbytes <= self.limits.nbytes and oldest >= now - self.limits.days * DAY_S:
            return 0
        deleted_by_user = [path for path in self._files if not path.exists()]
        for path in deleted_by_user:
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
    """Encode a picture, shrunk to at most 1920 pixels; return the JPEG and the size in it."""
    data = encode(picture, CODING)
    scale = min(1.0, CODING.longest / max(picture.width, picture.height))
    if scale == 1.0:
        return data, (picture.width, picture.height)
    small = decode(data, picture.matrix, picture.full_range)
    return data, (small.width, small.height)
