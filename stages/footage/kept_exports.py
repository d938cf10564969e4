"""Export the footage that a run kept: as figures, a sheet of pictures, or a folder of labels.

An exported folder is in the format COCO or YOLO. Its labels are the objects of the heavy pass. A
picture about which the heavy pass was not asked has no labels: COCO marks it with
`"labelled": false`, YOLO has no label file for it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np

from framegate.models import coco
from framegate.models.errors import PictureDamaged
from framegate.models.picture import ByteArray, to_bgr
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.progress import OnProgress
from framegate.stages.draw.faces import FaceBlur
from framegate.stages.footage.coco_labels import BoxEdges
from framegate.stages.footage.footage import evenly, shares
from framegate.stages.footage.kept_pictures import (
    DAY_S,
    WHYS,
    KeptFile,
    KeptFrame,
    KeptObject,
    SourceFootage,
    kept_frames,
    read_picture,
)
from framegate.stages.footage.labelled import clipped, exported_name


@dataclass(frozen=True, slots=True)
class ShownSource:
    """Figures of a source's footage.

    days        number of days (UTC) with frames
    whys        frames by reason; answered  frames with an answer of the heavy pass
    first, last UNIX seconds at which its first and last frames were kept
    unreadable  files with the name of a frame but without a readable frame
    """

    source: str
    frames: int
    days: int
    nbytes: int
    whys: dict[str, int]
    answered: int
    first: float
    last: float
    unreadable: int


class KeptFootage:
    """The footage of some sources of a run, which may be active. One thread."""

    def __init__(self, data: Path, sources: Sequence[str], before: float | None) -> None:
        """Read the footage of `sources` (empty: all) that was kept before a UNIX time, if given.

        Raises ConfigFaults if there is none.
        """
        footage = kept_frames(data)
        if not footage:
            raise ConfigFaults(
                [
                    f"{data}: no footage was kept there; a run keeps it with collect = true in the "
                    "table [learn] of its pipeline.toml"
                ]
            )
        unknown = [name for name in sources if name not in footage]
        if unknown:
            near = did_you_mean(unknown[0], footage)
            raise ConfigFaults(
                [f"--sources {', '.join(unknown)}: no footage; there is {', '.join(footage)}{near}"]
            )
        self._has_all_times = before is None
        self._kept: dict[str, SourceFootage] = {}
        for name, kept in footage.items():
            if sources and name not in sources:
                continue
            files = kept.files
            if before is not None:
                files = tuple(file for file in files if file.record.kept_at < before)
            self._kept[name] = kept._replace(files=files)
        self.rows = [_row(name, kept) for name, kept in self._kept.items()]

    def sheet(self, suffix: str, blur_faces: bool) -> bytes:
        """Return evenly spaced frames of each source, with their boxes, as one image file."""
        counts = [len(kept.files) for kept in self._kept.values()]
        rows = []
        for (name, kept), n in zip(self._kept.items(), shares(counts, _ON_SHEET), strict=True):
            if n:
                title = f"{name}: {n} of its {len(kept.files)} frames"
                rows.append((title, evenly(kept.files, n)))
        if not rows:
            raise ConfigFaults(["--sheet: there is no frame to show"])
        faces = None
        if blur_faces:
            faces = FaceBlur()
        _, coded = cv2.imencode(suffix, _drawn(rows, faces))
        return coded.tobytes()

    def export(self, folder: Path, form: str, meter: OnProgress) -> int:
        """Write the frames as `export` does, and return the number of pictures."""
        files: list[KeptFile] = []
        for kept in self._kept.values():
            files += kept.files
        if not files:
            raise ConfigFaults(["--export: there is no frame to write"])
        return export(
            files,
            folder,
            form,
            lambda n: meter("writing pictures", n, len(files)),
        )

    def delete(self) -> int:
        """Delete the frames, and unreadable files unless a time was given; return the number of
        frames.
        """
        gone = 0
        for kept in self._kept.values():
            for file in kept.files:
                with contextlib.suppress(FileNotFoundError):
                    _unlink(file.path)
                    gone += 1
            if self._has_all_times:
                for path in kept.unreadable:
                    with contextlib.suppress(FileNotFoundError):
                        _unlink(path)
            paths = [*(file.path for file in kept.files), *kept.unreadable]
            # The folder of the source; it stays if it is not empty.
            with contextlib.suppress(OSError, IndexError):
                paths[0].parent.rmdir()
        return gone


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except PermissionError as error:
        raise ConfigFaults([f"--delete {path}: {error.strerror}"]) from error


def _row(source: str, kept: SourceFootage) -> ShownSource:
    records = [file.record for file in kept.files]
    counted = Counter(record.why for record in records)
    times = [record.kept_at for record in records]
    return ShownSource(
        source=source,
        frames=len(records),
        days=len({int(at // DAY_S) for at in times}),
        nbytes=sum(file.nbytes for file in kept.files),
        whys={why: counted[why] for why in WHYS if counted[why]},
        answered=sum(record.heavy is not None for record in records),
        first=min(times, default=0.0),
        last=max(times, default=0.0),
        unreadable=len(kept.unreadable),
    )


# -- The sheet.


_ON_SHEET: Final = 40  # pictures
_COLUMNS: Final = 5
_WIDTH: Final = 256  # of a picture
_MAX_HEIGHT: Final = 256
_TEXT: Final = 20
_HEAD: Final = 34
_GAP: Final = 8
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_INK, _SOFT = (30, 28, 28), (110, 100, 100)
_HEAVY, _SERVED = (110, 118, 15), (12, 65, 194)  # B, G, R


def _drawn(rows: Sequence[tuple[str, Sequence[KeptFile]]], faces: FaceBlur | None) -> ByteArray:
    """Draw all sources below each other, uint8 (H, W, 3), B, G, R."""
    parts = [_legend()]
    for title, files in rows:
        parts.append(_line(title, _HEAD, 0.55, _INK))
        tiles = []
        for file in files:
            # A frame may have been removed meanwhile.
            with contextlib.suppress(PictureDamaged):
                tiles.append(_tile(file, faces))
        for start in range(0, len(tiles), _COLUMNS):
            parts.append(_beside(tiles[start : start + _COLUMNS]))
    return np.concatenate(parts)


def _line(text: str, height: int, size: float, ink: tuple[int, int, int]) -> ByteArray:
    line = np.full((height, _GAP + _COLUMNS * (_WIDTH + _GAP), 3), 255, np.uint8)
    cv2.putText(line, text, (_GAP, height - 10), _FONT, size, ink, 1, cv2.LINE_AA)
    return line


def _legend() -> ByteArray:
    line = _line("", _HEAD, 0.45, _INK)
    at = _GAP
    for colour, text in (
        (_HEAVY, "label of the heavy model"),
        (_SERVED, "published; the heavy model was not asked"),
    ):
        cv2.line(line, (at, 20), (at + 22, 20), colour, 2)
        cv2.putText(line, text, (at + 30, 24), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
        at += 240
    return line


def _tile(file: KeptFile, faces: FaceBlur | None) -> ByteArray:
    """Draw a frame with its boxes, and below it time and reason. Raises PictureDamaged."""
    record = file.record
    picture = read_picture(file)
    if faces is not None:
        picture = faces.blurred(picture)
    scale = min(_WIDTH / picture.width, _MAX_HEIGHT / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    bgr = np.ascontiguousarray(to_bgr(picture, size))
    objects, colour = record.served, _SERVED
    if record.heavy is not None:
        objects, colour = record.heavy, _HEAVY
    for each in objects:
        left, top, right, bottom = (round(edge * scale) for edge in each.box)
        cv2.rectangle(bgr, (left, top), (right, bottom), colour, 2)
    tile = np.full((bgr.shape[0] + _TEXT, _WIDTH, 3), 255, np.uint8)
    tile[: bgr.shape[0], : bgr.shape[1]] = bgr
    when = time.strftime("%d %b %H:%M:%S", time.localtime(record.kept_at))
    at = 0, tile.shape[0] - 6
    cv2.putText(tile, f"{when}  {record.why}", at, _FONT, 0.42, _SOFT, 1, cv2.LINE_AA)
    return tile


def _beside(tiles: Sequence[ByteArray]) -> ByteArray:
    height = max(tile.shape[0] for tile in tiles)
    row = np.full((height + _GAP, _GAP + _COLUMNS * (_WIDTH + _GAP), 3), 255, np.uint8)
    for column, tile in enumerate(tiles):
        left = _GAP + column * (_WIDTH + _GAP)
        row[: tile.shape[0], left : left + _WIDTH] = tile
    return row


# -- The folder of labels.


_QUALITY: Final = 95  # of JPEG, high because the picture is encoded for the second time
_DATASET: Final = "framegate footage"


def export(
    files: Sequence[KeptFile],
    folder: Path,
    form: str,
    done: Callable[[int], None] = lambda _: None,
) -> int:
    """Write frames into a new folder, completely or not at all; return the number of pictures.

    done  is called with the number of written frames

    A frame that was removed meanwhile is skipped. Raises ConfigFaults if the folder exists and is
    not empty, or if it cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigFaults(
            [f"--export {folder}: it exists and is not empty; allowed is a new or an empty folder"]
        )
    try:
        new = Path(tempfile.mkdtemp(prefix=".framegate-", dir=folder.parent))
    except OSError as error:
        raise ConfigFaults([f"--export {folder}: {error.strerror}"]) from error
    try:
        if form == "coco":
            n_pictures = _write_coco(files, new, done)
        else:
            n_pictures = _write_yolo(files, new, done)
        new.chmod(0o755)
        new.replace(folder)
    except OSError as error:
        raise ConfigFaults([f"--export {folder}: {error.strerror}"]) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return n_pictures


def _classes(files: Sequence[KeptFile]) -> list[str]:
    """Return all labels of the heavy pass, those of COCO first, in COCO's order."""
    labels: set[str] = set()
    for kept in files:
        labels.update(each.label for each in kept.record.heavy or ())
    known = [label for label in coco.LABELS if label in labels]
    return [*known, *sorted(labels.difference(known))]


def _write_picture(kept: KeptFile, folder: Path) -> Path | None:
    """Write the picture, and return its path; None: the frame was removed meanwhile."""
    record = kept.record
    try:
        picture = read_picture(kept)
    except PictureDamaged:
        return None
    path = folder / f"{exported_name(record.source, record.epoch, record.seq, record.moment_s)}.jpg"
    bgr = to_bgr(picture, (picture.width, picture.height))
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    path.write_bytes(data.tobytes())
    return path


def _objects(record: KeptFrame) -> Iterator[tuple[KeptObject, BoxEdges]]:
    """Yield the objects of the heavy pass with their boxes inside the picture."""
    for each in record.heavy or ():
        box = clipped(each.box, record.width, record.height)
        if box is not None:
            yield each, box


def _write_coco(files: Sequence[KeptFile], folder: Path, done: Callable[[int], None]) -> int:
    classes = _classes(files)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures = folder / "images"
    pictures.mkdir()
    for number, kept in enumerate(files):
        done(number)
        record = kept.record
        path = _write_picture(kept, pictures)
        if path is None:
            continue
        image: dict[str, Any] = {
            "id": len(images) + 1,
            "file_name": path.name,
            "width": record.width,
            "height": record.height,
        }
        if record.heavy is None:
            image["labelled"] = False
        images.append(image)
        for each, (left, top, right, bottom) in _objects(record):
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": classes.index(each.label) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [],
                    "score": each.score,
                }
            )
    table = {
        "info": {"description": _DATASET},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, 1)],
    }
    (folder / "annotations").mkdir()
    text = msgspec.json.format(msgspec.json.encode(table), indent=1)
    (folder / "annotations" / "instances_default.json").write_bytes(text)
    return len(images)


def _write_yolo(files: Sequence[KeptFile], folder: Path, done: Callable[[int], None]) -> int:
    classes = _classes(files)
    pictures = folder / "images" / "train"
    labels = folder / "labels" / "train"
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    n_pictures = 0
    for number, kept in enumerate(files):
        done(number)
        record = kept.record
        path = _write_picture(kept, pictures)
        if path is None:
            continue
        n_pictures += 1
        if record.heavy is None:
            continue
        lines = []
        for each, (left, top, right, bottom) in _objects(record):
            x, y = (left + right) / 2 / record.width, (top + bottom) / 2 / record.height
            width, height = (right - left) / record.width, (bottom - top) / record.height
            lines.append(f"{classes.index(each.label)} {x!r} {y!r} {width!r} {height!r}\n")
        (labels / f"{path.stem}.txt").write_text("".join(lines), encoding="utf-8")
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(classes)) or "  []\n"
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/train\nnames:\n{names}", encoding="utf-8"
    )
    return n_pictures
