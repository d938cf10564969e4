"""A JSON file of labels in the format COCO: `images`, `annotations`, `categories`.

An image of the file counts as labelled, with or without objects, unless it has `"labelled": false`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

BoxEdges = tuple[float, float, float, float]

_MAX_EDGE: Final = 1e9  # pixels


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """An object of a picture. box: left, top, right, bottom in pixels, as the file has it.

    unsure  neither an object nor background: COCO's `iscrowd`
    where   the file and the place in it, for messages
    """

    label: str
    box: BoxEdges
    unsure: bool
    where: str


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture file with its labels; None: unlabelled.

    size      width and height of the labelled picture; None: labels are shares of the picture
    source, moment_s   from the name of an exported picture, else the folder's name and the order
    """

    path: Path
    labels: tuple[LabelledObject, ...] | None
    size: tuple[int, int] | None
    source: str
    moment_s: float


class _Lists(msgspec.Struct):
    images: Any = None
    annotations: Any = None
    categories: Any = None


class _CocoImage(NamedTuple):
    """An image of a COCO file. is_labelled: False if it is marked as unlabelled."""

    path: Path
    size: tuple[int, int]
    is_labelled: bool


class CocoFile:
    """A JSON file of COCO. Its faults are appended to `faults`."""

    def __init__(
        self, file: Path, place: str, find: Callable[[str], Path | None], faults: list[str]
    ) -> None:
        """Name the file; nothing is read.

        place  where its pictures are, for messages
        find   returns the path of a picture by its `file_name`; None: there is none
        """
        self._file = file
        self._place = place
        self._find = find
        self._faults = faults

    def pictures(self, classes: list[str]) -> Iterator[LabelledPicture]:
        """Yield the pictures, and add their classes to `classes`."""
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
        for number, image in images.items():
            known = None
            if image.is_labelled or labels[number]:
                known = tuple(labels[number])
            yield LabelledPicture(image.path, known, image.size, "", 0.0)

    def _lists(self) -> _Lists | None:
        data = self._file.read_bytes()
        try:
            lists = msgspec.json.decode(data, type=_Lists)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            position = re.search(r"byte (\d+)", str(error))
            line = 1
            if position is not None:
                line += data[: int(position[1])].count(b"\n")
            self._faults.append(f"{self._file}: line {line}: not JSON ({error})")
            return None
        for key in _Lists.__struct_fields__:
            if not isinstance(getattr(lists, key), list):
                self._faults.append(f"{self._file}: {key}: must be a list")
                return None
        return lists

    def _names(self, entries: Sequence[Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        for place, entry in enumerate(entries):
            where = f"{self._file}: categories[{place}]"
            number, name = _fields(entry, ("id", "name"))
            if not _is_int(number) or not isinstance(name, str) or not name.strip():
                self._faults.append(f"{where}: must have a whole number as id, and a name")
            elif number in names or name in names.values():
                self._faults.append(f"{where}: id {number} or name {name!r} is there twice")
            else:
                names[number] = name
        return names

    def _images(self, entries: Sequence[Any]) -> dict[int, _CocoImage]:
        images: dict[int, _CocoImage] = {}
        paths: set[Path] = set()
        for place, entry in enumerate(entries):
            fault = None
            path = None
            number, name, width, height = _fields(entry, ("id", "file_name", "width", "height"))
            if not _is_int(number) or not isinstance(name, str) or not name:
                fault = "must have a whole number as id, and a file_name"
            elif not (_is_int(width) and _is_int(height) and width > 0 and height > 0):
                fault = "width and height must be whole numbers above 0"
            elif number in images:
                fault = f"id {number} is there twice"
            else:
                path = self._find(name)
                if path is None:
                    fault = f"{name}: there is no such picture in {self._place}"
                elif path in paths:
                    fault = f"{name} is there twice"
            if fault is not None or path is None:
                self._faults.append(f"{self._file}: images[{place}]: {fault}")
                continue
            paths.add(path)
            is_labelled = entry.get("labelled") is not False
            images[number] = _CocoImage(path, (width, height), is_labelled)
        return images

    def _label(
        self,
        entry: Any,
        names: Mapping[int, str],
        images: Mapping[int, _CocoImage],
        where: str,
    ) -> LabelledObject | None:
        image, category, box = _fields(entry, ("image_id", "category_id", "bbox"))
        crowd = 0
        if isinstance(entry, dict):
            crowd = entry.get("iscrowd", 0)
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
            self._faults.append(f"{where}: {fault}")
            return None
        left, top, width, height = (float(edge) for edge in box)
        edges = (left, top, left + width, top + height)
        return LabelledObject(names[category], edges, bool(crowd), where)


def _fields(entry: Any, keys: Sequence[str]) -> list[Any]:
    if not isinstance(entry, dict):
        return [None] * len(keys)
    return [entry.get(key) for key in keys]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _MAX_EDGE  # also false for NaN and infinity


def has_lists(path: Path) -> bool:
    """Return whether a file may be of this format: it has the names of the three lists."""
    data = path.read_bytes()
    return all(f'"{key}"'.encode() in data for key in _Lists.__struct_fields__)
