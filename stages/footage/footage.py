"""Footage to learn from: video files, footage that a run kept, and pictures that people labelled.

Tuning, training and judging read all footage with `read_footage`. A source is

    FILE          a video file; also a pattern, and NAME=FILE, as for `framegate run`
    DATA          a run's data folder with the footage that `[learn] collect` kept of all sources
    DATA:SOURCE   the footage of one of these sources
    LABELS        a folder of pictures with labels of COCO or YOLO

Files of people's labels may come beside it (`frame_labels`). The verdicts of a run's reviews are
read with its footage.

Iteration yields one picture at a time, so the reader decides how many are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import cv2
import numpy as np

from framegate.models.boxes import Boxes, empty
from framegate.models.errors import PictureDamaged
from framegate.models.learning.box_verdicts import BoxVerdicts
from framegate.models.picture import ByteArray, Picture
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.progress import OnProgress, no_report
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Frames, Request
from framegate.pipeline.review.verdicts import JudgedEpisode
from framegate.stages.decode.file import FileSource
from framegate.stages.footage.coco_labels import LabelledPicture
from framegate.stages.footage.frame_labels import (
    NO_LABELS,
    FrameKey,
    PeoplesLabels,
    read_frame_labels,
)
from framegate.stages.footage.judged_boxes import episodes_of, judged_boxes
from framegate.stages.footage.kept_pictures import (
    FOLDER,
    KeptFile,
    KeptFrame,
    SourceFootage,
    kept_frames,
    read_picture,
)
from framegate.stages.footage.labelled import (
    LabelledFolder,
    boxes_of,
    is_labelled,
    read_labelled,
    read_labels,
)
from framegate.stages.model_adapters import picture_of

MAX_PICTURES: Final = 400  # by default
_CANDIDATES: Final = 2  # frames of a video to compare per picture that it may give
_ALLOWED: Final = (
    "allowed are video files, data folders of runs with [learn] collect, and folders of COCO or "
    "YOLO labels"
)
_FPS: Final = 25.0  # of a file without times and without a rate


@dataclass(frozen=True, slots=True, eq=False)
class KnownObjects:
    """Labels of a picture that exist before a teacher looks at it.

    labels   by class id of both boxes
    sure     objects, in pixels of the picture; scores are 1 if people labelled them
    unsure   areas that are neither objects nor background
    models   result names of the heavy pass, which labelled the classes of its run; empty: people
             labelled all their classes
    """

    labels: tuple[str, ...]
    sure: Boxes
    unsure: Boxes
    models: tuple[str, ...] = ()

    @property
    def by_people(self) -> bool:
        """True if people labelled the picture."""
        return not self.models


@dataclass(frozen=True, slots=True, eq=False)
class FootageFrame:
    """A picture of a source.

    moment_s  seconds on the source's clock, which order its frames: time in a file, or UNIX time of
              a camera
    known     its labels; None: no labels
    verdicts  of a review about boxes of it, with COCO's class ids; None: there are none
    """

    picture: Picture
    source: str
    moment_s: float
    known: KnownObjects | None = None
    verdicts: BoxVerdicts | None = None


class _FootagePart(Protocol):
    """Footage of a source: the number of its pictures, and at most `most` of them in order."""

    @property
    def source(self) -> str: ...
    @property
    def count(self) -> int: ...
    def frames(self, most: int) -> Iterator[FootageFrame]: ...


class Footage:
    """Chosen pictures, in the order of sources and times. Each iteration reads them again.

    Iteration raises SourceFault if a file cannot be read any more. One thread per iteration.
    """

    def __init__(self, parts: Sequence[_FootagePart], most: int) -> None:
        taken = shares([part.count for part in parts], most)
        self._taken = [(part, n) for part, n in zip(parts, taken, strict=True) if n]

    def __len__(self) -> int:
        return sum(n for _, n in self._taken)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources of the chosen pictures."""
        return tuple(dict.fromkeys(part.source for part, _ in self._taken))

    def __iter__(self) -> Iterator[FootageFrame]:
        for part, n in self._taken:
            yield from part.frames(n)


def read_footage(
    words: Sequence[str],
    most: int = MAX_PICTURES,
    meter: OnProgress = no_report,
    labels: Sequence[Path] = (),
) -> Footage:
    """Choose evenly spaced pictures of these sources in which something moved, at most `most`.

    words   sources as a user names them, see above; each may give the same number of pictures
    labels  files of people's labels of frames of these sources, which are chosen first

    The call reads all footage to count the pictures. So a video file is decoded twice, now and in
    the iteration; if a file has enough key frames, only these are decoded. Raises ConfigFaults with
    all faults of the words, SourceFault as FileSource.
    """
    parts: list[_FootagePart] = []
    faults: list[str] = []
    places = named_sources(words)
    names: list[str] = []
    for name, place in places.items():
        names += _sources_at(name, place)
    labelled = read_frame_labels(labels, names)
    for name, place in places.items():
        meter(f"looking through {name}")
        try:
            parts += _parts_of(name, place, most, meter, labelled)
        except ConfigFaults as wrong:
            faults += wrong.faults
    if faults:
        raise ConfigFaults(faults)
    return Footage(parts, most)


def _sources_at(name: str, place: str) -> list[str]:
    """Return the names of the sources at a place; only those of a run's footage are read."""
    folder, _, source = place.rpartition(":")
    if not Path(place).exists() and Path(folder).is_dir() and is_name(source):
        return [source]
    if (Path(place) / FOLDER).is_dir():
        return list(kept_frames(Path(place)))
    return [name]


def _parts_of(
    name: str,
    place: str,
    most: int,
    meter: OnProgress,
    labelled: Mapping[str, PeoplesLabels],
) -> list[_FootagePart]:
    """Return the footage at a place. Raises ConfigFaults, SourceFault."""
    if is_live(place):
        raise ConfigFaults([f"{shown(place, camera=True)}: a camera; {_ALLOWED}"])
    folder, _, source = place.rpartition(":")
    if not Path(place).exists() and Path(folder).is_dir() and is_name(source):
        return [_kept_part(Path(folder), source, labelled)]
    if not Path(place).is_dir():
        return [_Video(name, place, most, meter, labelled.get(name, NO_LABELS))]
    if (Path(place) / FOLDER).is_dir():
        episodes = episodes_of(Path(place))
        return [
            _KeptFrames(source, kept.files, episodes, labelled.get(source, NO_LABELS))
            for source, kept in _all_kept(Path(place)).items()
        ]
    if is_labelled(Path(place)):
        return _labelled_parts(read_labelled(Path(place), name))
    raise ConfigFaults([f"{place}: a folder without footage and without labels; {_ALLOWED}"])


def _all_kept(data: Path) -> dict[str, SourceFootage]:
    footage = {source: kept for source, kept in kept_frames(data).items() if kept.files}
    if not footage:
        raise ConfigFaults([f"{data}: no frame of footage is kept there"])
    return footage


def _kept_part(data: Path, source: str, labelled: Mapping[str, PeoplesLabels]) -> _FootagePart:
    footage = _all_kept(data)
    if source not in footage:
        near = did_you_mean(source, footage)
        raise ConfigFaults(
            [f"{data}:{source}: no footage of it; there is some of {', '.join(footage)}{near}"]
        )
    return _KeptFrames(
        source, footage[source].files, episodes_of(data), labelled.get(source, NO_LABELS)
    )


class _KeptFrames:
    """Frames of a source that a run kept. A frame that was removed meanwhile is skipped.

    episodes  of the run, which a person judged
    labels    of people, of some frames
    """

    def __init__(
        self,
        source: str,
        files: Sequence[KeptFile],
        episodes: Sequence[JudgedEpisode],
        labels: PeoplesLabels,
    ) -> None:
        self.source = source
        self._files = files
        self._episodes = episodes
        self._labels = labels

    @property
    def count(self) -> int:
        return len(self._files)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        keys = [(kept.record.epoch, kept.record.seq) for kept in self._files]
        comes_first = [key in self._labels.frames for key in keys]
        for kept in evenly_with(self._files, comes_first, most):
            with suppress(PictureDamaged):
                picture = read_picture(kept)
                record = kept.record
                key = record.epoch, record.seq
                known = _by_people(self._labels, key, picture)
                if known is None:
                    known = _known_objects(record)
                verdicts = judged_boxes(record, self._episodes)
                yield FootageFrame(picture, self.source, record.moment_s, known, verdicts)


def _by_people(labels: PeoplesLabels, key: FrameKey, picture: Picture) -> KnownObjects | None:
    """Return people's labels of a frame; None: they labelled nothing. Raises ConfigFaults."""
    labelled = labels.frames.get(key)
    if labelled is None:
        return None
    boxes = boxes_of(labelled, labels.classes, (picture.width, picture.height))
    if boxes is None:
        return None
    return KnownObjects(labels.classes, *boxes)


def _labelled_parts(folder: LabelledFolder) -> list[_FootagePart]:
    by_source: dict[str, list[LabelledPicture]] = {}
    for picture in sorted(folder.pictures, key=lambda each: each.moment_s):
        by_source.setdefault(picture.source, []).append(picture)
    return [
        _LabelledPictures(source, folder.classes, pictures)
        for source, pictures in sorted(by_source.items())
    ]


class _LabelledPictures:
    """Pictures that people labelled. Pictures without movement are included."""

    def __init__(
        self, source: str, classes: tuple[str, ...], pictures: Sequence[LabelledPicture]
    ) -> None:
        self.source = source
        self._classes = classes
        self._pictures = pictures

    @property
    def count(self) -> int:
        return len(self._pictures)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        """Yield pictures. Raises ConfigFaults if a picture does not fit its labels."""
        for labelled in evenly(self._pictures, most):
            picture, boxes = read_labels(labelled, self._classes)
            known = None
            if boxes is not None:
                known = KnownObjects(self._classes, *boxes)
            yield FootageFrame(picture, self.source, labelled.moment_s, known)


def _known_objects(record: KeptFrame) -> KnownObjects | None:
    """Return the objects of the heavy pass in a kept frame; None: no answer."""
    if record.heavy is None:
        return None
    labels = tuple(dict.fromkeys(each.label for each in record.heavy))
    sure = Boxes(
        np.array([each.box for each in record.heavy], np.float32).reshape(-1, 4),
        np.array([each.score for each in record.heavy], np.float32),
        np.array([labels.index(each.label) for each in record.heavy], np.int32),
    )
    return KnownObjects(labels, sure, empty(), record.heavy_models)


class _Video:
    """The frames of a video file that differ from the previous frame of this kind, and those that
    people labelled.
    """

    def __init__(
        self, source: str, path: str, most: int, meter: OnProgress, labels: PeoplesLabels
    ) -> None:
        self.source = source
        self._labels = labels
        with closing(FileSource(path)) as file:
            n_frames, n_key = file.counted()
        n_candidates = _CANDIDATES * most
        # Labels count all decoded frames.
        only_key_frames = n_key >= n_candidates and not labels.frames
        self._request = Request(path, frames=Frames(keyframes=only_key_frames))
        available = max(1, n_frames)
        if only_key_frames:
            available = n_key
        labelled = _labelled_numbers(source, labels, available)
        candidates = evenly(range(available), n_candidates)
        moved: list[int] = []
        last = None
        for done, (number, frame) in enumerate(self._read(candidates)):
            meter(f"looking through {source}", done, len(candidates))
            grey = grey_of(frame.picture)
            if has_moved(last, grey):
                moved.append(number)
                last = grey
        self._numbers = sorted({*moved, *labelled})
        self._is_labelled = [number in labelled for number in self._numbers]

    @property
    def count(self) -> int:
        return len(self._numbers)

    def frames(self, most: int) -> Iterator[FootageFrame]:
        numbers = evenly_with(self._numbers, self._is_labelled, most)
        for number, frame in self._read(numbers):
            known = _by_people(self._labels, (0, number), frame.picture)
            yield replace(frame, known=known)

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, FootageFrame]]:
        """Yield these frames of the request, counted from 0, in order."""
        wanted = set(numbers)
        last = max(numbers, default=-1)
        with closing(FileSource(self._request)) as source:
            rate = source.claimed_fps or _FPS
            for number, frame in enumerate(source.frames()):
                if number in wanted:
                    picture = picture_of(frame)
                    moment_s = frame.pts
                    if moment_s is None:
                        moment_s = number / rate
                    yield number, FootageFrame(picture, self.source, moment_s)
                if number >= last:
                    return


def _labelled_numbers(source: str, labels: PeoplesLabels, available: int) -> set[int]:
    """Return the numbers of the labelled frames of a file. Raises ConfigFaults if it lacks one."""
    faults = [
        f"{picture.path}: {source} has no such frame; frames of a file are 0 to {available - 1}"
        for (epoch, number), picture in labels.frames.items()
        if epoch or number >= available
    ]
    if faults:
        raise ConfigFaults(faults)
    return {number for _, number in labels.frames}


T = TypeVar("T")

_SMALL: Final = (96, 54)
_CHANGED_LEVELS: Final = 10  # of 255 grey levels
_CHANGED_SHARE: Final = 0.004  # of the small picture's pixels


def grey_of(picture: Picture) -> ByteArray:
    """Return a small grey copy of the picture, uint8 (54, 96). Any thread."""
    small = cv2.resize(picture.y, _SMALL, interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def has_moved(last: ByteArray | None, grey: ByteArray) -> bool:
    """Return whether 0.4 % of the pixels or more changed by more than 10 levels since `last`.

    True if there is no last picture.
    """
    if last is None:
        return True
    return float((cv2.absdiff(last, grey) > _CHANGED_LEVELS).mean()) >= _CHANGED_SHARE


def evenly(ordered: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spaced, in order, with the first and the last."""
    if len(ordered) <= most:
        return list(ordered)
    places = np.linspace(0, len(ordered) - 1, most).astype(int)
    return [ordered[place] for place in places.tolist()]


def evenly_with(ordered: Sequence[T], is_first: Sequence[bool], most: int) -> list[T]:
    """Return at most `most` items in order: evenly spaced ones of those that come first, then
    evenly spaced others.
    """
    first = [place for place, is_chosen in enumerate(is_first) if is_chosen]
    others = [place for place, is_chosen in enumerate(is_first) if not is_chosen]
    chosen = evenly(first, most)
    left = most - len(chosen)
    if left:
        chosen += evenly(others, left)
    return [ordered[place] for place in sorted(chosen)]


def shares(counts: Sequence[int], most: int) -> list[int]:
    """Divide `most` pictures among sources with these counts, as equally as possible.

    A long source does not displace a short one. Each source with pictures gets at least 1, as long
    as `most` allows it.
    """
    given = [0] * len(counts)
    left = most
    # From the smallest source: its unused share is divided among the larger ones.
    for place in sorted(range(len(counts)), key=lambda place: counts[place]):
        waiting = sum(1 for other, count in enumerate(counts) if not given[other] and count)
        if waiting:
            given[place] = min(counts[place], max(left // waiting, min(left, 1)))
            left -= given[place]
    return given
