"""Footage: pictures to learn from, of files, of what a run kept, and of what people labelled.

`read_footage` is the one way in for whoever tunes, trains or judges. A source is

    FILE          a video file; also a pattern, and NAME=FILE, as for `framegate run`
    DATA          a run's data folder: what `[learn] collect` kept of all its sources
    DATA:SOURCE   of one of them
    LABELS        a folder of pictures with people's labels: COCO or YOLO

Pictures come one after the other, so that who reads decides how many are in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import cv2
import numpy as np

from framegate.models.boxes import Boxes, empty
from framegate.models.errors import PictureDamaged
from framegate.models.picture import ByteArray, Picture
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.progress import OnProgress, no_report
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Frames, Request
from framegate.stages.decode.file import FileSource
from framegate.stages.footage.kept import (
    FOLDER,
    KeptFile,
    KeptFrame,
    SourceFootage,
    kept_frames,
    read_picture,
)
from framegate.stages.footage.labelled import (
    LabelledFolder,
    LabelledPicture,
    is_labelled,
    read_labelled,
    read_labels,
)
from framegate.stages.planes import as_picture

MOST: Final = 400  # pictures, where a caller has no other wish
_CANDIDATES: Final = 2  # frames that are looked at for each that is wanted
_ALLOWED: Final = (
    "allowed are video files, data folders of runs with [learn] collect, and folders of COCO or "
    "YOLO labels"
)
_FPS: Final = 25.0  # of a file that states no times and no rate


@dataclass(frozen=True, slots=True, eq=False)
class KnownObjects:
    """What is known of a picture before any teacher looks at it.

    labels   that the class ids of both index
    sure     objects, in pixels of the picture; scores are 1 where people labelled
    unsure   neither objects nor background
    models   the heavy pass that said it, as results name models, of the classes that the run looked
             for; empty: people did, of all their classes
    """

    labels: tuple[str, ...]
    sure: Boxes
    unsure: Boxes
    models: tuple[str, ...] = ()

    @property
    def by_people(self) -> bool:
        """Whether people labelled the picture."""
        return not self.models


@dataclass(frozen=True, slots=True, eq=False)
class FootageFrame:
    """A picture of a source.

    moment_s  seconds on the source's clock: a file's own time, or UNIX time of a camera's frame;
              orders the frames of a source
    known     None where nothing is known of it
    """

    picture: Picture
    source: str
    moment_s: float
    known: KnownObjects | None = None


class _FootagePart(Protocol):
    """Footage of one source, of which so many pictures may be had."""

    @property
    def source(self) -> str: ...
    @property
    def count(self) -> int: ...
    def frames(self, most: int) -> Iterator[FootageFrame]: ...


class Footage:
    """Pictures that were chosen; each `iter` reads them anew, in the order of sources and times.

    Raises, while iterating, SourceFault where a file cannot be read any more. One thread each.
    """

    def __init__(self, parts: Sequence[_FootagePart], most: int) -> None:
        taken = shares([part.count for part in parts], most)
        self._taken = [(part, n) for part, n in zip(parts, taken, strict=True) if n]

    def __len__(self) -> int:
        return sum(n for _, n in self._taken)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that give pictures."""
        return tuple(dict.fromkeys(part.source for part, _ in self._taken))

    def __iter__(self) -> Iterator[FootageFrame]:
        for part, n in self._taken:
            yield from part.frames(n)


def read_footage(words: Sequence[str], most: int = MOST, meter: OnProgress = no_report) -> Footage:
    """Evenly spaced pictures of these sources in which something moved, at most `most` together.

    words  sources as a user names them, see above; each may give as many as the others

    Looks through all of it first, to know how much there is. A video file is so decoded twice, once
    now and once while the pictures are read; of one with key frames enough only these are.
    ConfigFaults with all that is wrong with the words, SourceFault as FileSource.
    """
    parts: list[_FootagePart] = []
    faults: list[str] = []
    places = named_sources(words)
    for name, place in places.items():
        meter(f"looking through {name}")
        try:
            parts += _parts_of(name, place, most, meter)
        except ConfigFaults as wrong:
            faults += wrong.faults
    if faults:
        raise ConfigFaults(faults)
    return Footage(parts, most)


def _parts_of(name: str, place: str, most: int, meter: OnProgress) -> list[_FootagePart]:
    """The footage at one place. ConfigFaults, SourceFault."""
    if is_live(place):
        raise ConfigFaults([f"{shown(place, camera=True)}: a camera; {_ALLOWED}"])
    folder, _, source = place.rpartition(":")
    if not Path(place).exists() and Path(folder).is_dir() and is_name(source):
        return [_kept_part(Path(folder), source)]
    if not Path(place).is_dir():
        return [_Video(name, place, most, meter)]
    if (Path(place) / FOLDER).is_dir():
        return [_KeptFrames(source, kept.files) for source, kept in _all_kept(Path(place)).items()]
    if is_labelled(Path(place)):
        return _labelled_parts(read_labelled(Path(place), name))
    raise ConfigFaults([f"{place}: a folder without footage and without labels; {_ALLOWED}"])


def _all_kept(data: Path) -> dict[str, SourceFootage]:
    found = {source: kept for source, kept in kept_frames(data).items() if kept.files}
    if not found:
        raise ConfigFaults([f"{data}: no frame of footage was kept there yet"])
    return found


def _kept_part(data: Path, source: str) -> _FootagePart:
    found = _all_kept(data)
    if source not in found:
        near = did_you_mean(source, found)
        raise ConfigFaults(
            [f"{data}:{source}: no footage of it; there is some of {', '.join(found)}{near}"]
        )
    return _KeptFrames(source, found[source].files)


class _KeptFrames:
    """Frames of one source that a run kept. One that has gone meanwhile is left out."""

    def __init__(self, source: str, files: Sequence[KeptFile]) -> None:
        self.source, self._files = source, files

    @property
    def count(self) -> int:
        return len(self._files)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        for kept in evenly(self._files, most):
            with suppress(PictureDamaged):
                picture, record = read_picture(kept), kept.record
                yield FootageFrame(picture, self.source, record.moment_s, _known_of(record))


def _labelled_parts(folder: LabelledFolder) -> list[_FootagePart]:
    by_source: dict[str, list[LabelledPicture]] = {}
    for one in folder.pictures:
        by_source.setdefault(one.source, []).append(one)
    return [
        _LabelledPictures(source, folder.classes, sorted(pictures, key=lambda one: one.moment_s))
        for source, pictures in sorted(by_source.items())
    ]


class _LabelledPictures:
    """Pictures that people labelled: none is left out for being like another."""

    def __init__(
        self, source: str, classes: tuple[str, ...], pictures: Sequence[LabelledPicture]
    ) -> None:
        self.source, self._classes, self._pictures = source, classes, pictures

    @property
    def count(self) -> int:
        return len(self._pictures)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        """ConfigFaults where a picture is not what its labels are of."""
        for one in evenly(self._pictures, most):
            picture, boxes = read_labels(one, self._classes)
            known = None if boxes is None else KnownObjects(self._classes, *boxes)
            yield FootageFrame(picture, self.source, one.moment_s, known)


def _known_of(record: KeptFrame) -> KnownObjects | None:
    """What the heavy pass said of a kept frame."""
    if record.heavy is None:
        return None
    labels = tuple(dict.fromkeys(one.label for one in record.heavy))
    sure = Boxes(
        np.array([one.box for one in record.heavy], np.float32).reshape(-1, 4),
        np.array([one.score for one in record.heavy], np.float32),
        np.array([labels.index(one.label) for one in record.heavy], np.int32),
    )
    return KnownObjects(labels, sure, empty(), record.heavy_models)


class _Video:
    """The frames of a video file in which something moved, since the one before of them."""

    def __init__(self, source: str, path: str, most: int, meter: OnProgress) -> None:
        self.source = source
        with closing(FileSource(path)) as file:
            n_frames, n_key = file.counted()
        wanted = _CANDIDATES * most
        only_key = n_key >= wanted
        self._request = Request(path, frames=Frames(keyframes=only_key))
        looked_at = evenly(range(n_key if only_key else max(1, n_frames)), wanted)
        self._moved: list[int] = []
        last = None
        for done, (number, frame) in enumerate(self._read(looked_at)):
            meter(f"looking through {source}", done, len(looked_at))
            grey = grey_of(frame.picture)
            if has_moved(last, grey):
                self._moved.append(number)
                last = grey

    @property
    def count(self) -> int:
        return len(self._moved)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        return (frame for _, frame in self._read(evenly(self._moved, most)))

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, FootageFrame]]:
        """These of the frames that are wanted of the file, counted from 0, in order."""
        wanted, last = set(numbers), max(numbers, default=-1)
        with closing(FileSource(self._request)) as source:
            rate = source.claimed_fps or _FPS
            for number, frame in enumerate(source.frames()):
                if number in wanted:
                    held = bytearray(frame.nbytes)
                    frame.write(memoryview(held))
                    picture = as_picture(memoryview(held), frame.form)
                    at_s = frame.pts if frame.pts is not None else number / rate
                    yield number, FootageFrame(picture, self.source, at_s)
                if number >= last:
                    return


T = TypeVar("T")

_SMALL: Final = (96, 54)
_MOVED: Final = 10  # grey levels of 255
_SHARE: Final = 0.004  # of the small picture's pixels


def grey_of(picture: Picture) -> ByteArray:
    """The picture in grey, uint8 (54, 96), whatever its size. Any thread."""
    small = cv2.resize(picture.y, _SMALL, interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def has_moved(last: ByteArray | None, grey: ByteArray) -> bool:
    """Whether a picture shows something else than the last one: .4 % of its pixels or more changed
    by more than 10 levels. True where there is no last one.
    """
    if last is None:
        return True
    return float((cv2.absdiff(last, grey) > _MOVED).mean()) >= _SHARE


def evenly(ordered: Sequence[T], most: int) -> list[T]:
    """At most so many of them, in their order, evenly spaced, with the first and the last."""
    if len(ordered) <= most:
        return list(ordered)
    places = np.linspace(0, len(ordered) - 1, most).astype(int)
    return [ordered[place] for place in places.tolist()]


def shares(counts: Sequence[int], most: int) -> list[int]:
    """How many each of several may give, at most `most` together: as equal as they can be, so that
    a long one does not push out a short one. Each at least 1 where it has any and `most` allows.
    """
    given = [0] * len(counts)
    left = most
    for place in sorted(range(len(counts)), key=lambda place: counts[place]):
        waiting = sum(1 for other, count in enumerate(counts) if not given[other] and count)
        if waiting:
            given[place] = min(counts[place], max(left // waiting, min(left, 1)))
            left -= given[place]
    return given
