"""Kept footage as a folder of pictures and labels that other programs open: COCO and YOLO.

The labels are what the heavy pass said; of a picture that it was not asked about none are written,
and the folder says so: COCO as `"labelled": false` in its image, YOLO by having no file for it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import msgspec

from framegate.models import coco
from framegate.models.errors import PictureDamaged
from framegate.models.preprocess import to_bgr
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.footage.kept import KeptFile, KeptObject, read_picture
from framegate.stages.footage.labelled import exported_name

ExportFormat = Literal["coco", "yolo"]

_QUALITY: Final = 95  # of JPEG: what is written is coded a second time
_DATASET: Final = "framegate footage"


def export(
    files: Sequence[KeptFile],
    folder: Path,
    form: ExportFormat,
    done: Callable[[int], None] = lambda _: None,
) -> int:
    """Write these frames into a new folder, whole or not at all; how many pictures it has.

    done  is told how many are written. A frame that has gone meanwhile is left out.

    ConfigFaults if the folder is there and not empty, or cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigFaults(
            [f"--export {folder}: it is there already; allowed is a new or an empty folder"]
        )
    try:
        new = Path(tempfile.mkdtemp(prefix=".framegate-", dir=folder.parent))
    except OSError as error:
        raise ConfigFaults([f"--export {folder}: {error.strerror}"]) from error
    try:
        write = _write_coco if form == "coco" else _write_yolo
        n_pictures = write(files, new, done)
        new.chmod(0o755)
        new.replace(folder)
    except OSError as error:
        raise ConfigFaults([f"--export {folder}: {error.strerror}"]) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return n_pictures


def _classes(files: Sequence[KeptFile]) -> list[str]:
    """All labels of the heavy pass, COCO's in COCO's order."""
    seen = {one.label for kept in files for one in kept.record.heavy or ()}
    known = [label for label in coco.LABELS if label in seen]
    return [*known, *sorted(seen.difference(known))]


def _write_picture(kept: KeptFile, folder: Path) -> Path | None:
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


def _edges(one: KeptObject, record: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The box inside the picture; None where nothing is left."""
    width, height = record
    left, top = max(0.0, one.box[0]), max(0.0, one.box[1])
    right, bottom = min(float(width), one.box[2]), min(float(height), one.box[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _write_coco(files: Sequence[KeptFile], folder: Path, done: Callable[[int], None]) -> int:
    classes = _classes(files)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures = folder / "images"
    pictures.mkdir()
    for number, kept in enumerate(files):
        done(number)
        path, record = _write_picture(kept, pictures), kept.record
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
        for one in record.heavy or ():
            if box := _edges(one, (record.width, record.height)):
                left, top, right, bottom = box
                width, height = right - left, bottom - top
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": classes.index(one.label) + 1,
                        "bbox": [left, top, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                        "segmentation": [],
                        "score": one.score,
                    }
                )
    told = {
        "info": {"description": _DATASET},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, 1)],
    }
    (folder / "annotations").mkdir()
    text = msgspec.json.format(msgspec.json.encode(told), indent=1)
    (folder / "annotations" / "instances_default.json").write_bytes(text)
    return len(images)


def _write_yolo(files: Sequence[KeptFile], folder: Path, done: Callable[[int], None]) -> int:
    classes = _classes(files)
    pictures, labels = folder / "images" / "train", folder / "labels" / "train"
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    n_pictures = 0
    for number, kept in enumerate(files):
        done(number)
        path, record = _write_picture(kept, pictures), kept.record
        if path is None:
            continue
        n_pictures += 1
        if record.heavy is None:
            continue
        lines = []
        for one in record.heavy:
            if box := _edges(one, (record.width, record.height)):
                left, top, right, bottom = box
                x, y = (left + right) / 2 / record.width, (top + bottom) / 2 / record.height
                width, height = (right - left) / record.width, (bottom - top) / record.height
                lines.append(f"{classes.index(one.label)} {x!r} {y!r} {width!r} {height!r}\n")
        (labels / f"{path.stem}.txt").write_text("".join(lines))
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(classes)) or "  []\n"
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/train\nnames:\n{names}"
    )
    return n_pictures
