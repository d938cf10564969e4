"""`framegate learn footage`: what a run kept, in words, as a sheet of pictures, as a folder."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import cv2
import numpy as np

from framegate.models.errors import PictureDamaged
from framegate.models.picture import ByteArray
from framegate.models.preprocess import to_bgr
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.progress import OnProgress
from framegate.stages.draw.faces import FaceBlur
from framegate.stages.footage.export import ExportFormat, export
from framegate.stages.footage.footage import evenly, shares
from framegate.stages.footage.kept import (
    DAY_S,
    WHYS,
    KeptFile,
    SourceFootage,
    kept_frames,
    read_picture,
)


@dataclass(frozen=True, slots=True)
class ShownSource:
    """What is told of a source's footage.

    whys        frames by why they were kept; answered: of all, those with what the heavy pass said
    first, last UNIX seconds at which its first and last frames were kept; days: with any
    unreadable  files with the name of a frame that hold none
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
    """The footage of some sources. One thread; a run may go on meanwhile."""

    def __init__(self, data: Path, sources: Sequence[str], before: float | None) -> None:
        """sources: none are all; before: UNIX seconds, only what was kept earlier.

        ConfigFaults where there is none.
        """
        found = kept_frames(data)
        if not found:
            raise ConfigFaults(
                [
                    f"{data}: no footage was kept there; a run keeps it with collect = true in the "
                    "table [learn] of its pipeline.toml"
                ]
            )
        if unknown := [name for name in sources if name not in found]:
            near = did_you_mean(unknown[0], found)
            raise ConfigFaults(
                [f"--sources {', '.join(unknown)}: no footage; there is {', '.join(found)}{near}"]
            )
        self._whole = before is None
        self._kept = {
            name: SourceFootage(
                tuple(f for f in kept.files if before is None or f.record.kept_at < before),
                kept.unreadable,
            )
            for name, kept in found.items()
            if not sources or name in sources
        }
        self.rows = [_row(name, kept) for name, kept in self._kept.items()]

    @property
    def _files(self) -> list[KeptFile]:
        return [file for kept in self._kept.values() for file in kept.files]

    def sheet(self, suffix: str, blur_faces: bool) -> bytes:
        """Evenly spaced frames of each source as one image file, with what was found in them."""
        counts = [len(kept.files) for kept in self._kept.values()]
        rows = [
            (f"{name}: {n} of its {len(kept.files)} frames", evenly(kept.files, n))
            for (name, kept), n in zip(self._kept.items(), shares(counts, _ON_SHEET), strict=True)
            if n
        ]
        if not rows:
            raise ConfigFaults(["--sheet: there is no frame to show"])
        _, coded = cv2.imencode(suffix, _drawn(rows, FaceBlur() if blur_faces else None))
        return coded.tobytes()

    def export(self, folder: Path, form: str, meter: OnProgress) -> int:
        """Write the frames; see stages.footage.export."""
        files = self._files
        if not files:
            raise ConfigFaults(["--export: there is no frame to write"])
        return export(
            files,
            folder,
            cast(ExportFormat, form),
            lambda n: meter("writing pictures", n, len(files)),
        )

    def delete(self) -> int:
        """Remove the frames, and, of whole sources, what has a frame's name and holds none."""
        gone = 0
        for kept in self._kept.values():
            for file in kept.files:
                with contextlib.suppress(FileNotFoundError):
                    _unlink(file.path)
                    gone += 1
            for path in kept.unreadable if self._whole else ():
                with contextlib.suppress(FileNotFoundError):
                    _unlink(path)
            paths = [*(file.path for file in kept.files), *kept.unreadable]
            with contextlib.suppress(OSError):  # a run puts more into it
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


_ON_SHEET: Final = 40
_COLUMNS: Final = 5
_WIDTH, _TALLEST = 256, 256  # of a picture
_TEXT: Final = 20
_HEAD: Final = 34
_GAP: Final = 8
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_INK, _SOFT = (30, 28, 28), (110, 100, 100)
_HEAVY, _SERVED = (110, 118, 15), (12, 65, 194)  # B, G, R


def _drawn(rows: Sequence[tuple[str, Sequence[KeptFile]]], faces: FaceBlur | None) -> ByteArray:
    """All sources below each other. uint8 (H, W, 3), B, G, R."""
    parts = [_legend()]
    for head, files in rows:
        parts.append(_line(head, _HEAD, 0.55, _INK))
        tiles = [tile for file in files if (tile := _tile(file, faces)) is not None]
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
    for ink, text in (
        (_HEAVY, "label of the heavy model"),
        (_SERVED, "published; the heavy model was not asked"),
    ):
        cv2.line(line, (at, 20), (at + 22, 20), ink, 2)
        cv2.putText(line, text, (at + 30, 24), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
        at += 240
    return line


def _tile(file: KeptFile, faces: FaceBlur | None) -> ByteArray | None:
    """A frame with its boxes, and below it when and why it was kept."""
    record = file.record
    try:
        picture = read_picture(file)
    except PictureDamaged:
        return None
    if faces is not None:
        picture = faces.blurred(picture)
    scale = min(_WIDTH / picture.width, _TALLEST / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    seen = np.ascontiguousarray(to_bgr(picture, size))
    asked = record.heavy is not None
    for one in record.heavy if record.heavy is not None else record.served:
        left, top, right, bottom = (round(edge * scale) for edge in one.box)
        cv2.rectangle(seen, (left, top), (right, bottom), _HEAVY if asked else _SERVED, 2)
    tile = np.full((seen.shape[0] + _TEXT, _WIDTH, 3), 255, np.uint8)
    tile[: seen.shape[0], : seen.shape[1]] = seen
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
