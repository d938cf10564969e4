"""Folders of labelled pictures in the formats COCO and YOLO.

COCO   JSON files with `images`, `annotations`, `categories` in the folder or its `annotations`;
       pictures by their `file_name`, beside the JSON, in the folder or below `images`
YOLO   the names of the classes in `data.yaml`, `classes.txt` or `obj.names`; for each picture a
       file of lines `class x y width height`, shares of the picture, beside it or with `labels` in
       place of `images` in its path. A picture without such a file is unlabelled; an empty file
       means that it contains no objects

CVAT, Label Studio and Ultralytics export these formats. Any fault is refused with file and place,
because a wrong label costs more than a refusal. A box that exceeds the picture is clipped.

The name of a picture that Framegate exported contains its source and time.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureUnreadable
from framegate.models.picture import Picture, read_photograph
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.stages.footage.coco_labels import (
    BoxEdges,
    CocoFile,
    LabelledObject,
    LabelledPicture,
    has_lists,
)

_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
EXPORTED: Final = re.compile(r"([a-z][a-z0-9_]{0,31})--(\d+)-(\d+)--(\d+(?:\.\d+)?)")
_NAMES: Final = ("data.yaml", "data.yml", "classes.txt", "obj.names")
_MAX_FAULTS: Final = 20  # reported faults of a folder
_N_WORDS: Final = 5  # of a line of YOLO


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """The pictures of a folder, and its classes in the order of their numbers."""

    classes: tuple[str, ...]
    pictures: tuple[LabelledPicture, ...]


def exported_name(source: str, epoch: int, seq: int, moment_s: float) -> str:
    """Return the name of an exported picture without suffix; `moment_s` to the microsecond."""
    return f"{source}--{epoch}-{seq}--{max(0.0, moment_s):.6f}"


def is_labelled(folder: Path) -> bool:
    """Return whether a folder contains a file of labels or class names."""
    return bool(_coco_files(folder)) or any((folder / name).is_file() for name in _NAMES)


def read_labelled(folder: Path, source: str) -> LabelledFolder:
    """Read the labels of a folder, but no pictures. Raises ConfigFaults with all faults."""
    files = _coco_files(folder)
    faults: list[str] = []
    if files:
        labelled = _read_coco(folder, files, faults)
    else:
        labelled = _read_yolo(folder, faults)
    if not faults and not labelled.pictures:
        faults.append(f"{folder}: no picture in it")
    if len(faults) > _MAX_FAULTS:
        more = f"{folder}: and {len(faults) - _MAX_FAULTS} more faults"
        faults = [*faults[:_MAX_FAULTS], more]
    if faults:
        raise ConfigFaults(faults)
    pictures = []
    for number, picture in enumerate(sorted(labelled.pictures, key=lambda each: str(each.path))):
        origin = EXPORTED.fullmatch(picture.path.stem)
        if origin:
            picture = replace(picture, source=origin[1], moment_s=float(origin[4]))
        else:
            picture = replace(picture, source=source, moment_s=float(number))
        pictures.append(picture)
    return LabelledFolder(labelled.classes, tuple(pictures))


def read_labels(
    labelled: LabelledPicture, classes: Sequence[str]
) -> tuple[Picture, tuple[Boxes, Boxes] | None]:
    """Read a picture; return it with its sure and unsure boxes, or None if it is unlabelled.

    Class ids index `classes`. Raises ConfigFaults if the picture cannot be read or has another size
    than its labels, or if a box lies outside of it.
    """
    path = labelled.path
    try:
        picture = read_photograph(path)
    except PictureUnreadable as error:
        raise ConfigFaults([str(error)]) from error
    except cv2.error as error:
        raise ConfigFaults([f"{path}: OpenCV refuses this picture; it may be too large"]) from error
    return picture, boxes_of(labelled, classes, (picture.width, picture.height))


def boxes_of(
    labelled: LabelledPicture, classes: Sequence[str], size: tuple[int, int]
) -> tuple[Boxes, Boxes] | None:
    """Return the sure and unsure boxes of a picture of this width and height; see `read_labels`."""
    width, height = size
    path = labelled.path
    scale = (float(width), float(height))
    if labelled.size is not None:
        scale = (1.0, 1.0)
        if labelled.size != size:
            expected = f"{labelled.size[0]}x{labelled.size[1]}"
            fault = f"it has {width}x{height} pixels, its labels are of a picture of {expected}"
            raise ConfigFaults([f"{path}: {fault}"])
    if labelled.labels is None:
        return None
    faults: list[str] = []
    rows: dict[bool, list[tuple[str, BoxEdges]]] = {True: [], False: []}
    for label in labelled.labels:
        left, top, right, bottom = label.box
        edges = left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]
        box = clipped(edges, width, height)
        if box is None:
            faults.append(f"{label.where}: this box of {label.label} lies outside of the picture")
        else:
            rows[label.unsure].append((label.label, box))
    if faults:
        raise ConfigFaults(faults)
    return _as_boxes(rows[False], classes), _as_boxes(rows[True], classes)


def clipped(box: BoxEdges, width: int, height: int) -> BoxEdges | None:
    """Return the part of a box inside a picture; None: the box lies outside."""
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[2]), min(float(height), box[3])
    if left >= right or top >= bottom:
        return None
    return left, top, right, bottom


def _as_boxes(rows: Sequence[tuple[str, BoxEdges]], classes: Sequence[str]) -> Boxes:
    return Boxes(
        np.array([box for _, box in rows], np.float32).reshape(-1, 4),
        np.ones(len(rows), np.float32),
        np.array([classes.index(label) for label, _ in rows], np.int32),
    )


# -- COCO.


def _coco_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder with the three lists; if possible only those of boxes."""
    candidates = [*sorted(folder.glob("*.json")), *sorted((folder / "annotations").glob("*.json"))]
    files = [path for path in candidates if path.is_file() and has_lists(path)]
    return [path for path in files if path.name.startswith("instances")] or files


def _read_coco(folder: Path, files: Sequence[Path], faults: list[str]) -> LabelledFolder:
    classes: list[str] = []
    pictures: dict[Path, LabelledPicture] = {}
    for file in files:
        find = partial(_picture_path, folder, file)
        for picture in CocoFile(file, str(folder), find, faults).pictures(classes):
            if picture.path in pictures:
                name = picture.path.name
                faults.append(f"{file}: {name} is labelled twice, in another file as well")
            pictures[picture.path] = picture
    return LabelledFolder(tuple(classes), tuple(pictures.values()))


def _picture_path(folder: Path, file: Path, name: str) -> Path | None:
    """Return the picture of that name inside the folder; None: there is none."""
    plain = Path(name.replace("\\", "/"))
    root = folder.resolve()
    for place in (file.parent, folder, folder / "images", folder / "images" / "default"):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            path = (place / plain).resolve()
            if path.is_file() and path.is_relative_to(root):
                return path
    return None


# -- YOLO.


def _read_yolo(folder: Path, faults: list[str]) -> LabelledFolder:
    classes = _class_names(folder, faults)
    pictures = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICTURES and path.is_file():
            file = _label_file(path, folder)
            known = None
            if file is not None:
                known = _yolo_labels(file, classes, faults)
            pictures.append(LabelledPicture(path, known, None, "", 0.0))
    return LabelledFolder(classes, tuple(pictures))


def _label_file(picture: Path, folder: Path) -> Path | None:
    parts = list(picture.relative_to(folder).parts)
    places = [picture.with_suffix(".txt")]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        places.insert(0, folder.joinpath(*parts).with_suffix(".txt"))
    return next((place for place in places if place.is_file()), None)


def _class_names(folder: Path, faults: list[str]) -> tuple[str, ...]:
    file = next(folder / name for name in _NAMES if (folder / name).is_file())
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        faults.append(f"{file}: it cannot be read as UTF-8")
        return ()
    lines = text.rstrip().splitlines()
    if file.suffix in (".yaml", ".yml"):
        names = _yaml_names(lines)
    else:
        names = [line.strip() for line in lines]
    if not names or not all(names):
        faults.append(f"{file}: names: must be a list of names, or a table of numbers from 0 on")
        return ()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        faults.append(f"{file}: {twice!r} is there twice")
    return tuple(names)


def _yaml_names(lines: Sequence[str]) -> list[str]:
    """Return the `names` of a data.yaml: in brackets, or lines `- name` or `0: name`; else []."""
    start = next((n for n, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        return []
    rest = lines[start].partition(":")[2].split(" #")[0].strip()
    following = []
    for line in lines[start + 1 :]:
        if line.strip() and not line.startswith((" ", "\t", "-")):
            break
        following.append(line.split(" #")[0].strip())
    inside = [line for line in following if line and not line.startswith("#")]
    if rest.startswith(("[", "{")):
        whole = " ".join([rest, *inside]).strip()
        if whole[-1] not in "]}":
            return []
        items = [item.strip() for item in whole[1:-1].split(",") if item.strip()]
        if rest.startswith("{"):
            return _numbered(items)
        return [_unquoted(item) for item in items]
    if inside and all(line.startswith("-") for line in inside):
        return [_unquoted(line[1:].strip()) for line in inside]
    if rest:
        return []
    return _numbered(inside)


def _numbered(items: Sequence[str]) -> list[str]:
    """Return the names of items `0: person`; [] unless the numbers count from 0."""
    names = {}
    for item in items:
        number, colon, name = item.partition(":")
        digits = _unquoted(number.strip())
        if not colon or not _is_number(digits):
            return []
        names[int(digits)] = _unquoted(name.strip())
    if sorted(names) != list(range(len(names))):
        return []
    return [names[n] for n in range(len(names))]


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 10


def _unquoted(word: str) -> str:
    is_quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
    if is_quoted:
        return word[1:-1]
    return word


def _yolo_labels(
    file: Path, classes: Sequence[str], faults: list[str]
) -> tuple[LabelledObject, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        faults.append(f"{file}: it cannot be read as UTF-8")
        return ()
    labels = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        try:
            labels.append(_yolo_label(line.split(), classes, where))
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
    return tuple(labels)


def _yolo_label(words: Sequence[str], classes: Sequence[str], where: str) -> LabelledObject:
    """Return the object of a line. ValueError with its fault."""
    if len(words) != _N_WORDS:
        hint = ""
        if len(words) > _N_WORDS + 1:
            hint = "; export boxes, not polygons"
        raise ValueError(f"{len(words)} words; must be: class x y width height{hint}")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError as fault:
        raise ValueError(f"{' '.join(words)}: must be numbers") from fault
    if not _is_number(words[0]) or int(words[0]) >= len(classes):
        near = did_you_mean(words[0], classes)
        if not classes:
            raise ValueError(f"class {words[0]}: there are no names of classes")
        raise ValueError(f"class {words[0]}: allowed is 0 to {len(classes) - 1}{near}")
    x, y, width, height = values
    if not all(map(math.isfinite, values)) or width <= 0 or height <= 0:
        raise ValueError("width and height must be above 0, and all numbers finite")
    if max(abs(value) for value in values) > 2:
        raise ValueError("must be shares of the picture, 0 to 1, not pixels")
    box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return LabelledObject(classes[int(words[0])], box, False, where)
