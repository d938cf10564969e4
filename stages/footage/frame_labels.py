"""People's labels of single frames of footage: a JSON file of COCO beside the footage.

The name of an image states its frame:

    gate--1-345--17.200000.jpg   a picture that `framegate learn footage --export` wrote: source,
                                 epoch, number and time of the frame
    frame_000345.PNG             as CVAT names the frames of a video: decoded frame 345, counted
                                 from 0; in a folder with the name of the source if the footage has
                                 several sources

Only the labels are read; the pixels come from the footage.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Final

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.stages.footage.coco_labels import CocoFile, LabelledPicture
from framegate.stages.footage.labelled import EXPORTED

_MAX_FAULTS: Final = 20  # reported faults of a file
_NUMBERED: Final = re.compile(r"frame_(\d{1,9})")

FrameKey = tuple[int, int]
"""Epoch and number of a frame; the epoch of a video file is 0."""


@dataclass(frozen=True, slots=True)
class PeoplesLabels:
    """The labels of some frames of a source.

    classes  those of which every object is labelled
    frames   by epoch and number of the frame
    """

    classes: tuple[str, ...]
    frames: Mapping[FrameKey, LabelledPicture]


NO_LABELS: Final = PeoplesLabels((), {})


def read_frame_labels(files: Sequence[Path], sources: Collection[str]) -> dict[str, PeoplesLabels]:
    """Read files of labels; return the labels by source. Raises ConfigFaults with all faults.

    sources  names of the sources of the footage; an image of another source is a fault
    """
    faults: list[str] = []
    classes: list[str] = []
    frames: dict[str, dict[FrameKey, LabelledPicture]] = {}
    for file in files:
        try:
            pictures = [*CocoFile(file, "the footage", Path, faults).pictures(classes)]
        except OSError as error:
            faults.append(f"--labels {file}: {error.strerror}")
            continue
        for picture in pictures:
            try:
                source, key = _frame_of(picture.path, sources)
            except ValueError as error:
                faults.append(f"--labels {file}: {error}")
                continue
            known = frames.setdefault(source, {})
            if key in known:
                faults.append(f"--labels {file}: {picture.path} is labelled twice")
            known[key] = picture
    if len(faults) > _MAX_FAULTS:
        more = f"--labels: and {len(faults) - _MAX_FAULTS} more faults"
        faults = [*faults[:_MAX_FAULTS], more]
    if not faults and files and not frames:
        faults.append(f"--labels {files[0]}: no image in it")
    if faults:
        raise ConfigFaults(faults)
    return {source: PeoplesLabels(tuple(classes), known) for source, known in frames.items()}


def _frame_of(path: Path, sources: Collection[str]) -> tuple[str, FrameKey]:
    """Return source and frame of the name of an image. ValueError with the fault."""
    plain = PureWindowsPath(path)  # both kinds of slashes
    exported = EXPORTED.fullmatch(plain.stem)
    numbered = _NUMBERED.fullmatch(plain.stem)
    if exported is not None:
        source = exported[1]
        key = (int(exported[2]), int(exported[3]))
    elif numbered is not None:
        source = plain.parent.name
        if not source and len(sources) == 1:
            [source] = sources
        key = (0, int(numbered[1]))
    else:
        raise ValueError(
            f"{path}: its name states no frame; allowed are SOURCE/frame_NUMBER and names of "
            "pictures that `framegate learn footage --export` wrote"
        )
    if source not in sources:
        near = did_you_mean(source, sources)
        raise ValueError(
            f"{path}: source {source!r} is not in the footage, which has {', '.join(sources)}{near}"
        )
    return source, key
