"""Pictures with labels in folders as others write and read them: COCO and YOLO.

COCO   JSON files with `images`, `annotations`, `categories` in the folder or its `annotations`;
       pictures by their `file_name`, beside the JSON, in the folder or below `images`
YOLO   the names of the classes in `data.yaml`, `classes.txt` or `obj.names`; for each picture a
       file of lines `class x y width height`, shares of the picture, beside it or with `labels` in
       place of `images` in its path. Without such a file nothing is known of the picture; an empty
       one says that there is nothing in it

So CVAT, Label Studio and Ultralytics export them. Whatever is odd is refused, with file and place:
a wrong label costs more than a refusal. A box that reaches over the edge is cut there.

A picture that we exported has its source and time in its name, and gets them back, whatever the
program did with it meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureUnreadable
from framegate.models.picture import Picture, read_photograph
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean

_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_OURS: Final = re.compile(r"([a-z][a-z0-9_]{0,31})--(\d+)-(\d+)--(\d+(?:\.\d+)?)")
_NAMES: Final = ("data.yaml", "data.yml", "classes.txt", "obj.names")
_MOST_TOLD: Final = 20  # faults of a folder
_WORDS: Final = 5  # of a line
_LARGEST: Final = 1e9  # of any edge, in pixels


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """An object of a picture. box: left, top, right, bottom in pixels, as the file has it.

    unsure  neither an object nor background: COCO's `iscrowd`
    where   the file and the place in it, for people
    """

    label: str
    box: tuple[float, float, float, float]
    unsure: bool
    where: str


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture file with its labels; None where nothing is known of it.

    size      width and height that the labels were made for; None: they are shares of the picture
    source, moment_s   as it was exported by us, else of the folder's name and in order
    """

    path: Path
    labels: tuple[LabelledObject, ...] | None
    size: tuple[int, int] | None
    source: str
    moment_s: float


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """What a folder of labels holds. classes: in the order of their numbers."""

    classes: tuple[str, ...]
    pictures: tuple[LabelledPicture, ...]


def exported_name(source: str, epoch: int, seq: int, moment_s: float) -> str:
    """The name of a picture file, without suffix, that tells what it is of, to the microsecond."""
    return f"{source}--{epoch}-{seq}--{max(0.0, moment_s):.6f}"


def is_labelled(folder: Path) -> bool:
    """Whether a folder looks like one of labels."""
    return bool(_coco_files(folder)) or any((folder / name).is_file() for name in _NAMES)


def read_labelled(folder: Path, source: str) -> LabelledFolder:
    """Read all labels of a folder, and no picture. ConfigFaults with all that is wrong."""
    files = _coco_files(folder)
    faults: list[str] = []
    found = _read_coco(folder, files, faults) if files else _read_yolo(folder, faults)
    if not faults and not found.pictures:
        faults.append(f"{folder}: no picture in it")
    if faults:
        more = [f"{folder}: and {len(faults) - _MOST_TOLD} more faults"]
        raise ConfigFaults(faults[:_MOST_TOLD] + more * (len(faults) > _MOST_TOLD))
    placed = []
    for number, one in enumerate(sorted(found.pictures, key=lambda one: str(one.path))):
        ours = _OURS.fullmatch(one.path.stem)
        own, moment_s = (ours[1], float(ours[4])) if ours else (source, float(number))
        placed.append(LabelledPicture(one.path, one.labels, one.size, own, moment_s))
    return LabelledFolder(found.classes, tuple(placed))


def read_labels(
    one: LabelledPicture, classes: Sequence[str]
) -> tuple[Picture, tuple[Boxes, Boxes] | None]:
    """A picture, and the boxes in it that are sure and unsure; class ids index `classes`.

    ConfigFaults where the picture cannot be read, is not of the size that the labels are of, or a
    box lies outside of it.
    """
    try:
        picture = read_photograph(one.path)
    except PictureUnreadable as error:
        raise ConfigFaults([str(error)]) from error
    except cv2.error as error:
        raise ConfigFaults([f"{one.path}: a picture that OpenCV refuses: too large?"]) from error
    size = picture.width, picture.height
    if one.size not in (None, size):
        raise ConfigFaults(
            [
                f"{one.path}: it has {size[0]}x{size[1]} pixels, its labels are of a picture of "
                f"{one.size[0]}x{one.size[1]}"
            ]
        )
    if one.labels is None:
        return picture, None
    faults: list[str] = []
    rows: list[tuple[LabelledObject, tuple[float, ...]]] = []
    scale = (1.0, 1.0) if one.size is not None else (float(size[0]), float(size[1]))
    for label in one.labels:
        box = _cut(tuple(edge * scale[n % 2] for n, edge in enumerate(label.box)), size)
        if box is None:
            faults.append(f"{label.where}: this box of {label.label} lies outside of the picture")
        else:
            rows.append((label, box))
    if faults:
        raise ConfigFaults(faults)
    sure = [row for row in rows if not row[0].unsure]
    unsure = [row for row in rows if row[0].unsure]
    return picture, (_as_boxes(sure, classes), _as_boxes(unsure, classes))


def _cut(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, ...] | None:
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(size[0]), box[2]), min(float(size[1]), box[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _as_boxes(
    rows: Sequence[tuple[LabelledObject, tuple[float, ...]]], classes: Sequence[str]
) -> Boxes:
    return Boxes(
        np.array([box for _, box in rows], np.float32).reshape(-1, 4),
        np.ones(len(rows), np.float32),
        np.array([classes.index(label.label) for label, _ in rows], np.int32),
    )


# -- COCO.


def _coco_files(folder: Path) -> list[Path]:
    """JSON files of a folder that have the three lists; of several kinds those of boxes."""
    found = [
        path
        for place in (folder, folder / "annotations")
        for path in sorted(place.glob("*.json"))
        if path.is_file() and _begins_as_coco(path)
    ]
    return [path for path in found if path.name.startswith("instances")] or found


class _Lists(msgspec.Struct):
    images: Any = None
    annotations: Any = None
    categories: Any = None


def _begins_as_coco(path: Path) -> bool:
    data = path.read_bytes()
    return all(f'"{key}"'.encode() in data for key in _Lists.__struct_fields__)


def _read_coco(folder: Path, files: Sequence[Path], faults: list[str]) -> LabelledFolder:
    classes: list[str] = []
    pictures: dict[Path, LabelledPicture] = {}
    for file in files:
        for one in _CocoFile(folder, file, faults).pictures(classes):
            if one.path in pictures:
                faults.append(f"{file}: {one.path.name} is labelled twice, in another file as well")
            pictures[one.path] = one
    return LabelledFolder(tuple(classes), tuple(pictures.values()))


class _CocoFile:
    """One JSON file; what is wrong with it is appended to `faults`."""

    def __init__(self, folder: Path, file: Path, faults: list[str]) -> None:
        self._folder, self._file, self._faults = folder, file, faults

    def pictures(self, classes: list[str]) -> Iterator[LabelledPicture]:
        """Its pictures; its classes are added to `classes`."""
        lists = self._lists()
        if lists is None:
            return
        names = self._names(lists.categories)
        classes += [name for name in names.values() if name not in classes]
        images = self._images(lists.images)
        labels: dict[int, list[LabelledObject]] = {number: [] for number in images}
        for place, entry in enumerate(lists.annotations):
            where = f"{self._file}: annotations[{place}]"
            if isinstance(entry, dict) and "id" in entry:
                where += f" (id {entry['id']})"
            label = self._label(entry, names, images, where)
            if label is not None:
                labels[entry["image_id"]].append(label)
        for number, (path, size, is_known) in images.items():
            known = tuple(labels[number]) if is_known or labels[number] else None
            yield LabelledPicture(path, known, size, "", 0.0)

    def _fault(self, words: str) -> None:
        self._faults.append(words)

    def _lists(self) -> _Lists | None:
        data = self._file.read_bytes()
        try:
            lists = msgspec.json.decode(data, type=_Lists)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._fault(f"{self._file}: line {_line_of(str(error), data)}: not JSON ({error})")
            return None
        for key in _Lists.__struct_fields__:
            if not isinstance(getattr(lists, key), list):
                self._fault(f"{self._file}: {key}: must be a list")
                return None
        return lists

    def _names(self, entries: Sequence[Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        for place, entry in enumerate(entries):
            where = f"{self._file}: categories[{place}]"
            number, name = _fields(entry, ("id", "name"))
            if not _is_int(number) or not isinstance(name, str) or not name.strip():
                self._fault(f"{where}: must have a whole number as id, and a name")
            elif number in names or name in names.values():
                self._fault(f"{where}: id {number} or name {name!r} is there twice")
            else:
                names[number] = name
        return names

    def _images(self, entries: Sequence[Any]) -> dict[int, tuple[Path, tuple[int, int], bool]]:
        images: dict[int, tuple[Path, tuple[int, int], bool]] = {}
        paths: set[Path] = set()
        for place, entry in enumerate(entries):
            where = f"{self._file}: images[{place}]"
            number, name, width, height = _fields(entry, ("id", "file_name", "width", "height"))
            if not _is_int(number) or not isinstance(name, str) or not name:
                self._fault(f"{where}: must have a whole number as id, and a file_name")
            elif not (_is_int(width) and _is_int(height) and width > 0 and height > 0):
                self._fault(f"{where}: width and height must be whole numbers above 0")
            elif number in images:
                self._fault(f"{where}: id {number} is there twice")
            else:
                path = self._path(name)
                if path is None:
                    self._fault(f"{where}: {name}: there is no such picture in {self._folder}")
                elif path in paths:
                    self._fault(f"{where}: {name} is there twice")
                else:
                    paths.add(path)
                    images[number] = path, (width, height), entry.get("labelled") is not False
        return images

    def _path(self, name: str) -> Path | None:
        """The picture of that name; never one outside of the folder."""
        plain = Path(name.replace("\\", "/"))
        root = self._folder.resolve()
        for place in (self._file.parent, self._folder, self._folder / "images",
                      self._folder / "images" / "default"):  # fmt: skip
            with contextlib.suppress(OSError, ValueError):  # a name that no file can have
                path = (place / plain).resolve()
                if path.is_file() and path.is_relative_to(root):
                    return path
        return None

    def _label(
        self,
        entry: Any,
        names: Mapping[int, str],
        images: Mapping[int, tuple[Path, tuple[int, int], bool]],
        where: str,
    ) -> LabelledObject | None:
        image, category, box = _fields(entry, ("image_id", "category_id", "bbox"))
        crowd = entry.get("iscrowd", 0) if isinstance(entry, dict) else 0
        fault = None
        if not _is_int(image) or image not in images:
            fault = f"image_id {image!r}: there is no such picture"
        elif not _is_int(category) or category not in names:
            fault = f"category_id {category!r}: there is no such category"
        elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
            fault = f"bbox {box!r}: must be [left, top, width, height] in pixels"
        elif box[2] <= 0 or box[3] <= 0:
            fault = f"bbox {box!r}: width and height must be above 0"
        elif crowd not in (0, 1):
            fault = f"iscrowd {crowd!r}: must be 0 or 1"
        if fault is not None:
            self._fault(f"{where}: {fault}")
            return None
        left, top, width, height = (float(edge) for edge in box)
        return LabelledObject(
            names[category], (left, top, left + width, top + height), bool(crowd), where
        )  # fmt: skip


def _fields(entry: Any, keys: Sequence[str]) -> list[Any]:
    return [entry.get(key) if isinstance(entry, dict) else None for key in keys]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST  # which no NaN and no infinity is


def _line_of(error: str, data: bytes) -> int:
    """The line of the byte that a decoder's message names."""
    found = re.search(r"byte (\d+)", error)
    return data[: int(found[1])].count(b"\n") + 1 if found else 1


# -- YOLO.


def _read_yolo(folder: Path, faults: list[str]) -> LabelledFolder:
    classes = _class_names(folder, faults)
    pictures = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICTURES and path.is_file():
            labels = _labels_of(path, folder)
            known = None if labels is None else _yolo_labels(labels, classes, faults)
            pictures.append(LabelledPicture(path, known, None, "", 0.0))
    return LabelledFolder(classes, tuple(pictures))


def _labels_of(picture: Path, folder: Path) -> Path | None:
    """The file with a picture's labels."""
    inside = picture.relative_to(folder)
    parts = list(inside.parts)
    places = [picture.with_suffix(".txt")]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        places.insert(0, folder.joinpath(*parts).with_suffix(".txt"))
    return next((place for place in places if place.is_file()), None)


def _class_names(folder: Path, faults: list[str]) -> tuple[str, ...]:
    file = next(folder / name for name in _NAMES if (folder / name).is_file())
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        faults.append(f"{file}: it cannot be read as UTF-8")
        return ()
    lines = text.splitlines()
    names = _yaml_names(lines) if file.suffix in (".yaml", ".yml") else _plain_names(lines)
    if not names or not all(names):
        faults.append(f"{file}: names: must be a list of names, or a table of numbers from 0 on")
        return ()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        faults.append(f"{file}: {twice!r} is there twice")
    return tuple(names)


def _plain_names(lines: Sequence[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return [line.strip() for line in lines]


def _yaml_names(lines: Sequence[str]) -> list[str]:
    """`names` of a data.yaml in the three ways that it is written; [] for any other."""
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
        return _numbered(items) if rest.startswith("{") else [_unquoted(item) for item in items]
    if inside and all(line.startswith("-") for line in inside):
        return [_unquoted(line[1:].strip()) for line in inside]
    return [] if rest else _numbered(inside)


def _numbered(items: Sequence[str]) -> list[str]:
    """Names of `0: person`, ..., which must count from 0."""
    names = {}
    for item in items:
        number, colon, name = item.partition(":")
        digits = _unquoted(number.strip())
        if not colon or not _is_number(digits):
            return []
        names[int(digits)] = _unquoted(name.strip())
    return [names[n] for n in range(len(names))] if sorted(names) == list(range(len(names))) else []


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 10


def _unquoted(word: str) -> str:
    quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
    return word[1:-1] if quoted else word


def _yolo_labels(
    file: Path, classes: Sequence[str], faults: list[str]
) -> tuple[LabelledObject, ...]:  # fmt: skip
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        faults.append(f"{file}: it cannot be read as UTF-8")
        return ()
    labels = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        fault, label = _yolo_label(line.split(), classes, where)
        if fault:
            faults.append(f"{where}: {fault}")
        elif label is not None:
            labels.append(label)
    return tuple(labels)


def _yolo_label(
    words: Sequence[str], classes: Sequence[str], where: str
) -> tuple[str, LabelledObject | None]:
    if len(words) != _WORDS:
        more = "; export boxes, not polygons" if len(words) > _WORDS + 1 else ""
        return f"{len(words)} words; must be: class x y width height{more}", None
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        return f"{' '.join(words)}: must be numbers", None
    if not _is_number(words[0]) or int(words[0]) >= len(classes):
        near = did_you_mean(words[0], classes)
        allowed = f"0 to {len(classes) - 1}" if classes else "none, as there are no names"
        return f"class {words[0]}: allowed is {allowed}{near}", None
    x, y, width, height = values
    if not all(map(math.isfinite, values)) or width <= 0 or height <= 0:
        return "width and height must be above 0, and all numbers finite", None
    if max(abs(value) for value in values) > 2:
        return "must be shares of the picture, 0 to 1, not pixels", None
    box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return "", LabelledObject(classes[int(words[0])], box, False, where)
