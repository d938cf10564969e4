"""Answers of the heavy pass for each frame, asked once for each picture and kept on disk."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import xxhash

from framegate.models.boxes import Boxes
from framegate.models.detector.detector import Detector
from framegate.models.picture import Picture

_TELL_S: Final = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """A frame's picture, by the hash of its bytes, and what the heavy pass sees in it."""

    key: bytes
    boxes: Boxes


class DetectorAnswers:
    """A detector's answers by picture, in a file that only grows; what was asked once is read.

    It is of one policy and number of threads, which may change a last digit: a line of JSON for
    each picture, its hash and its boxes. A line that was cut off is asked again. Several processes
    may use a file, because each line is one write at its end; a process sees the lines of others
    when it opens the file. One thread at a time.
    """

    def __init__(self, folder: Path, detector: Detector) -> None:
        self._detector = detector
        self._known: dict[bytes, Boxes] = {}
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{detector.choices.name}-{detector.policy_id[:16]}-{detector.threads}.jsonl"
        self._file: BinaryIO = (folder / name).open("a+b", buffering=0)
        self._file.seek(0)
        *lines, rest = self._file.read().split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # it was cut off
                key, rows = json.loads(line)
                self._known[bytes.fromhex(key)] = _boxes(rows)
        if rest:
            self._file.write(b"\n")

    def __enter__(self) -> DetectorAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, picture: Picture) -> Truth:
        """Asks the detector where no equal picture was asked before."""
        key = key_of(picture)
        if key not in self._known:
            found = self._detector.detect([picture])[0]
            self._file.write(json.dumps((key.hex(), _rows(found))).encode() + b"\n")
            self._known[key] = found
        return Truth(key, self._known[key])


def truths(pictures: Iterable[Picture], answers: DetectorAnswers, n_frames: int) -> list[Truth]:
    """The heavy pass of every frame; prints how far it is."""
    found: list[Truth] = []
    told = began = time.monotonic()
    known = len(answers)
    for picture in pictures:
        found.append(answers.of(picture))
        if (now := time.monotonic()) > told + _TELL_S:
            told = now
            asked = len(answers) - known
            print(f"heavy pass: {len(found)}/{n_frames} frames, {asked} asked, {now - began:.0f} s")
    return found


def key_of(picture: Picture) -> bytes:
    """16 bytes that differ where a byte of the picture or its meaning does."""
    form = (picture.width, picture.height, picture.matrix, picture.full_range)
    digest = xxhash.xxh3_128(repr(form).encode())
    for plane in (picture.y, picture.u, picture.v):
        digest.update(np.ascontiguousarray(plane).data)
    return digest.digest()


def _rows(boxes: Boxes) -> list[list[float]]:
    """x1, y1, x2, y2, score, class of each box; float32 comes back from JSON as it was."""
    scores, class_ids = boxes.scores[:, None], boxes.class_ids[:, None]
    found: list[list[float]] = np.hstack([boxes.xyxy, scores, class_ids]).tolist()
    return found


def _boxes(rows: list[list[float]]) -> Boxes:
    table = np.array(rows, np.float64).reshape(-1, 6)
    xyxy, scores = table[:, :4].astype(np.float32), table[:, 4].astype(np.float32)
    return Boxes(xyxy, scores, table[:, 5].astype(np.int32))
