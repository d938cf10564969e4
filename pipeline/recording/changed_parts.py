"""The changed parts of each frame, in files of the data folder: when did a region change?

The gate compares each frame with what the network saw last, in COLUMNS x ROWS parts. A frame takes
8 bytes for its time and PART_BYTES for its parts, and nothing for the parts if pages of frames have
none, because files are sparse. Nothing is decoded to answer a question.

The place of a frame follows from its position: `changes/SOURCE/EPOCH-FIRST-WIDTHxHEIGHT.parts` has
the frames FIRST to FIRST + FRAMES - 1 of an epoch. A frame that is processed again after a kill is
written to the same place, so no frame is stored twice. A time of 0 means that the frame was not
compared. The parts of a frame are written before its time. A power cut can lose the last half
minute, and can lose the parts of a frame whose time it keeps.
"""

from __future__ import annotations

import mmap
import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.source import CHANGE_COLUMNS as COLUMNS
from framegate.pipeline.contracts.source import CHANGE_ROWS as ROWS

FOLDER: Final = "changes"  # in the data folder
PART_BYTES: Final = COLUMNS * ROWS // 8
FRAMES: Final = 16384  # in a file: 11 minutes at 25 frames a second
TIME_BYTES: Final = 8
FILE_BYTES: Final = FRAMES * (TIME_BYTES + PART_BYTES)
MAX_PERIODS: Final = 1000
ACTIVITY_EVERY: Final = 8  # a frame in so many is looked at for the activity of a day
_STEP_S: Final = 3600.0  # a clock may step back by this within a file
UNKNOWN_S: Final = 10.0  # a longer time without a compared frame is not known
TIMES_BYTES: Final = FRAMES * TIME_BYTES
_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)x(\d+)\.parts")

PictureRegion = tuple[
    float, float, float, float
]  # left, top, right, bottom as shares of the picture
TimeArray = npt.NDArray[np.float64]
WordArray = npt.NDArray[np.uint64]
RowNumbers = npt.NDArray[np.intp]


class PartsFile(NamedTuple):
    """A file of changed parts: `first` is the seq of its first frame."""

    epoch: int
    first: int
    width: int
    height: int
    path: Path

    @classmethod
    def at(cls, path: Path) -> PartsFile | None:
        """Return the file with this path; None if it has another name."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        epoch, first, width, height = (int(number) for number in match.groups())
        return cls(epoch, first, width, height, path)


def parts_files(data: Path, source: str) -> list[PartsFile]:
    """Return the files of a source in the order of their frames."""
    files = [PartsFile.at(path) for path in (data / FOLDER / source).glob("*.parts")]
    return sorted(file for file in files if file is not None)


def known_sources(data: Path) -> list[str]:
    """Return the names of the sources with changed parts."""
    return sorted(path.name for path in (data / FOLDER).glob("*") if path.is_dir())


# -- Read.


class ChangedPeriod(msgspec.Struct, frozen=True):
    """A period in which a region changed.

    since   capture time of the first frame in which it had changed, UNIX seconds
    until   capture time of the last one
    frames  number of frames in which it had changed
    first   position of the first of them
    """

    since: float
    until: float
    frames: int
    first: str


class RegionChanges(msgspec.Struct, frozen=True):
    """The changes of a region of a source.

    periods   the newest periods in which it changed, in order of time, at most MAX_PERIODS
    left_out  number of earlier periods, which are not in `periods`
    known     first and last moment of the newest periods in which frames were compared, UNIX
              seconds, at most MAX_PERIODS; outside them it is not known whether the region changed
    known_s   seconds of all periods in which frames were compared
    frames    number of compared frames
    """

    periods: list[ChangedPeriod]
    left_out: int
    known: list[tuple[float, float]]
    known_s: float
    frames: int


def read_region(text: str) -> PictureRegion:
    """Parse `x1,y1,x2,y2`, shares of the picture. ValueError."""
    try:
        left, top, right, bottom = (float(edge) for edge in text.split(","))
    except ValueError:
        left = top = right = bottom = -1.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"must be x1,y1,x2,y2, shares of the picture from 0 to 1 with x1 < x2 and y1 < y2, "
            f"such as 0.1,0.2,0.4,0.6; got {text[:40]!r}"
        )
    return left, top, right, bottom


def changes_of_region(
    data: Path,
    source: str,
    region: PictureRegion,
    since: float = 0.0,
    until: float = float("inf"),
    apart_s: float = 2.0,
) -> RegionChanges:
    """Return when a region of a source changed.

    since, until  UNIX seconds of the frames, both included
    apart_s       changes that are at most this time apart are one period

    The region grows to whole parts. ConfigFaults if no changed parts of the source are stored.
    """
    files: list[PartsFile] = []
    if is_name(source):  # a request may give any text, also the path of another folder
        files = parts_files(data, source)
    if not files:
        near = did_you_mean(source[:64], known_sources(data))
        raise ConfigFaults(
            [
                f"source {source[:64]!r}: no changed parts are stored; a run stores them with the "
                f"gate on and [gate] changes_bytes above 0{near}"
            ]
        )
    known = _Periods(UNKNOWN_S)
    changes = _Periods(apart_s)
    for file, times, words in _mapped(files):
        if _is_outside(times, since, until):
            continue
        rows = np.flatnonzero((times > 0) & (times >= since) & (times <= until))
        if not rows.size:
            continue
        changed = rows[_has_changed(words, rows, mask_of(region, file.width, file.height))]
        known.add(times[rows], file.epoch, file.first + rows)
        changes.add(times[changed], file.epoch, file.first + changed)
    return RegionChanges(
        changes.newest,
        changes.left_out,
        [(period.since, period.until) for period in known.newest],
        known.seconds,
        known.frames,
    )


class ActivityShares(msgspec.Struct, frozen=True):
    """How much of a source's picture differed from what the network saw last, over a span.

    source  name of the source
    since   begin of the span, UNIX seconds
    step_s  length of a step, seconds
    shares  mean share of the picture that had changed in each step, 0 to 1; null: no frame of the
            step was compared
    """

    source: str
    since: float
    step_s: float
    shares: list[float | None]


def activity_of(data: Path, source: str, since: float, until: float, steps: int) -> ActivityShares:
    """Return the activity of a source in equal steps of a span, UNIX seconds.

    It is estimated from every ACTIVITY_EVERY-th compared frame, so that a day costs milliseconds.
    """
    sums = np.zeros(steps)
    counts = np.zeros(steps)
    files: list[PartsFile] = []
    if is_name(source):
        files = parts_files(data, source)
    for _, times, words in _mapped(files):
        if _is_outside(times, since, until):
            continue
        rows = np.flatnonzero((times > 0) & (times >= since) & (times < until))[::ACTIVITY_EVERY]
        step = ((times[rows] - since) / (until - since) * steps).astype(np.intp)
        changed = np.bitwise_count(words[rows]).sum(axis=1) / (COLUMNS * ROWS)
        sums += np.bincount(step, changed, steps)[:steps]
        counts += np.bincount(step, minlength=steps)[:steps]
    shares: list[float | None] = []
    for total, count in zip(sums.tolist(), counts.tolist(), strict=True):
        share = None
        if count:
            share = round(total / count, 4)
        shares.append(share)
    return ActivityShares(source, since, (until - since) / steps, shares)


class _Periods:
    """Periods of frames that are at most `apart_s` apart, of which the newest are kept.

    Frames come file by file, so a question about all of a source needs the memory of one file.
    """

    def __init__(self, apart_s: float) -> None:
        self._apart_s = apart_s
        self._kept: deque[ChangedPeriod] = deque(maxlen=MAX_PERIODS)
        self._count = 0
        self._left_s = 0.0  # of periods that are not kept any more
        self.frames = 0

    def add(self, times: TimeArray, epoch: int, seqs: RowNumbers) -> None:
        """Add frames that follow those before. times, seqs: (N,)."""
        self.frames += times.size
        begins, ends = _runs(times, self._apart_s)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            since, until = float(times[begin]), float(times[end])
            frames = end - begin + 1
            last = None
            if self._kept:
                last = self._kept[-1]
            if last is not None and abs(since - last.until) <= self._apart_s:
                self._kept[-1] = ChangedPeriod(last.since, until, last.frames + frames, last.first)
                continue
            if len(self._kept) == MAX_PERIODS:
                self._left_s += self._kept[0].until - self._kept[0].since
            self._kept.append(ChangedPeriod(since, until, frames, f"{epoch}-{seqs[begin]}"))
            self._count += 1

    @property
    def newest(self) -> list[ChangedPeriod]:
        """The newest periods in order of time, at most MAX_PERIODS."""
        return list(self._kept)

    @property
    def left_out(self) -> int:
        """The number of earlier periods."""
        return self._count - len(self._kept)

    @property
    def seconds(self) -> float:
        """The seconds of all periods."""
        return self._left_s + sum(period.until - period.since for period in self._kept)


@lru_cache(64)
def mask_of(region: PictureRegion, width: int, height: int) -> WordArray:
    """Return the parts that a region touches, as the words of a frame.

    width, height  size of the picture in pixels; a part has whole pixels
    """
    left, right = _span(region[0] * width, region[2] * width, -(-width // COLUMNS), COLUMNS)
    top, bottom = _span(region[1] * height, region[3] * height, -(-height // ROWS), ROWS)
    parts = np.zeros((ROWS, COLUMNS), np.bool_)
    parts[top:bottom, left:right] = True
    return np.packbits(parts).view("<u8")


def _span(low: float, high: float, size: int, count: int) -> tuple[int, int]:
    """Return the range of parts from `low` to `high` in pixels, at least one."""
    start = min(int(low // size), count - 1)
    end = min(max(int(-(-high // size)), start + 1), count)
    return start, end


def _mapped(files: Sequence[PartsFile]) -> Iterator[tuple[PartsFile, TimeArray, WordArray]]:
    """Yield each file with its times, float64 (FRAMES,), and parts, uint64 (FRAMES, 6).

    A file that is removed meanwhile, or does not have the size of a whole file, is left out.
    """
    for file in files:
        try:
            with open(file.path, "rb") as opened:
                content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # it was removed, or it is empty
            continue
        if len(content) != FILE_BYTES:
            continue
        times = np.frombuffer(content, "<f8", FRAMES)
        yield file, times, np.frombuffer(content, "<u8", offset=TIMES_BYTES).reshape(FRAMES, -1)


def _is_outside(times: TimeArray, since: float, until: float) -> bool:
    """Return whether no frame of a file can be in a span, by its first and last frame."""
    first = times[0]
    last = times[-1]
    return bool(first > until + _STEP_S or 0 < last < since - _STEP_S)


def _has_changed(words: WordArray, rows: RowNumbers, mask: WordArray) -> npt.NDArray[np.bool_]:
    """Return which of the rows have a changed part of the mask."""
    wanted = words[rows[0] : rows[-1] + 1]
    changed = np.zeros(len(wanted), np.bool_)
    for column in np.flatnonzero(mask).tolist():
        changed |= (wanted[:, column] & mask[column]) != 0
    of_rows: npt.NDArray[np.bool_] = changed[rows - rows[0]]
    return of_rows


def _runs(times: TimeArray, apart_s: float) -> tuple[RowNumbers, RowNumbers]:
    """Return the first and last index of each run of times that are at most `apart_s` apart."""
    if not times.size:
        none = np.empty(0, np.intp)
        return none, none
    breaks = np.flatnonzero(np.abs(np.diff(times)) > apart_s)
    firsts = np.concatenate(([0], breaks + 1))
    lasts = np.concatenate((breaks, [times.size - 1]))
    return firsts, lasts


# -- Check.


def parts_faults(data: Path) -> dict[str, str]:
    """Return the faults of the files in a data folder, by path below it. OSError."""
    faults: dict[str, str] = {}
    for source in known_sources(data):
        for file in parts_files(data, source):
            fault = _fault(file)
            if fault is not None:
                faults[str(file.path.relative_to(data))] = fault
    return faults


def _fault(file: PartsFile) -> str | None:
    nbytes = file.path.stat().st_size
    if nbytes != FILE_BYTES:
        return f"{nbytes} bytes instead of {FILE_BYTES}"
    for _, times, _ in _mapped([file]):
        if not np.all(np.isfinite(times) & (times >= 0)):
            return "it has times that are no times"
    return None
