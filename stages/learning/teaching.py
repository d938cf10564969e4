"""Ask a teacher where objects are in footage: the heavy pass, a registry model, or people.

Answers of models are kept on this machine, so a repeated call on the same footage starts from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import cv2
import msgspec
import numpy as np
import xxhash

from framegate.models import coco
from framegate.models.boxes import Boxes, empty
from framegate.models.detector import detector, precision_trial
from framegate.models.detector.compiled_networks import locked
from framegate.models.detector.network import compiled_here
from framegate.models.learning.box_verdicts import corrected
from framegate.models.learning.teacher import TeacherLabels
from framegate.models.picture import ByteArray, Picture, to_bgr
from framegate.models.registry.open import labels_of, open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system.machine import user_cache
from framegate.stages.footage.footage import FootageFrame
from framegate.stages.learning.choices import HEAVY

PEOPLE: Final = "people"


class Teacher:
    """Labels each picture of footage with COCO's classes. One thread.

    asked, known  pictures that the model looked at, and pictures with a kept answer
    """

    def __init__(
        self, model: str, registry: Registry, threads: int = 0, answers: Path | None = None
    ) -> None:
        """Open the model.

        model    heavy, or NAME, NAME@VERSION or NAME@DIGEST of the registry
        threads  of an inference; 0: all cores
        answers  folder of the kept answers; None: the cache of this user

        Raises UnknownModel and other errors of `open_model`, ConfigFaults for a model without a
        class of COCO.
        """
        threads = threads or precision_trial.cores_available()
        self.asked = 0
        self.known = 0
        self._by_people = False
        cache_dir = compiled_here(user_cache())
        if model == HEAVY:
            self._detector = detector.load(HEAVY, threads=threads, cache_dir=cache_dir)
        else:
            found = registry.find(model)
            choice = precision_trial.run(user_cache() / "precision.json", tried=tried_of(found))
            self._detector = open_model(found, choice.precision, threads, cache_dir=cache_dir)
            if not set(labels_of(found.manifest)) & set(coco.LABELS):
                raise ConfigFaults(
                    [f"--teacher {model}: none of its classes is one of COCO's 80, which are tuned"]
                )
        folder = answers or user_cache() / "teacher"
        self._kept = KeptAnswers(folder / f"{self._detector.policy_id[:16]}.msgpack")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The result names of the models, or "people", or both if both labelled pictures."""
        models = "+".join(self._detector.models)
        if not self._by_people:
            return models
        if self.asked:
            return f"{PEOPLE} and {models}"
        return PEOPLE

    def of(self, frame: FootageFrame) -> TeacherLabels:
        """Return the labels of a picture: those of people, else those of the model, corrected by
        people's verdicts about single boxes.
        """
        known = frame.known
        if known is not None and known.by_people:
            self._by_people = True
            labelled = frozenset(coco.LABELS.index(x) for x in known.labels if x in coco.LABELS)
            return TeacherLabels(
                _as_coco(known.sure, known.labels), _as_coco(known.unsure, known.labels), labelled
            )
        content = content_of(frame.picture)
        kept = self._kept.find(content)
        boxes = None
        if kept is not None:
            boxes = Boxes.read(kept)
        if boxes is None:
            [boxes] = self._detector.detect([frame.picture])
            boxes = _as_coco(boxes, self._detector.labels)
            self._kept.keep(content, boxes.to_bytes())
            self.asked += 1
        else:
            self.known += 1
        if frame.verdicts is None:
            return TeacherLabels(boxes, empty())
        return TeacherLabels(corrected(boxes, frame.verdicts), empty(), None, frame.verdicts)

    def close(self) -> None:
        """Write the new answers."""
        self._kept.close()


def content_of(picture: Picture) -> bytes:
    """Return a digest of 16 bytes of the pixels, matrix and range."""
    digest = xxhash.xxh3_128(repr((picture.matrix, picture.full_range, picture.y.shape)).encode())
    for plane in (picture.y, picture.u, picture.v):
        digest.update(np.ascontiguousarray(plane).data)
    return digest.digest()


def _as_coco(boxes: Boxes, labels: tuple[str, ...]) -> Boxes:
    """Return the boxes with the class ids of COCO, without those of other classes."""
    if labels == coco.LABELS:
        return boxes
    ids = {label: class_id for class_id, label in enumerate(coco.LABELS)}
    coco_ids = [ids.get(labels[class_id], -1) for class_id in boxes.class_ids.tolist()]
    renamed = np.array(coco_ids, np.int32)
    return Boxes(boxes.xyxy, boxes.scores, renamed).take(renamed >= 0)


_MAX_ANSWERS: Final = 20_000  # of about 400 bytes
_MAX_FILES: Final = 8
_SAVE_EVERY: Final = 25  # answers


class KeptAnswers:
    """A file of answers of a model, as bytes, by the digest of a picture. One thread.

    Several processes may use the same file; it then contains the answers of all. Another model, or
    other settings, need another file; the eight newest files of a folder are kept. If the file
    cannot be written, the answers are kept in memory only.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._new = 0
        self._known = self._written()

    def find(self, content: bytes) -> bytes | None:
        """Return the answer; None: unknown."""
        return self._known.get(content)

    def keep(self, content: bytes, answer: bytes) -> None:
        """Add an answer. Every 25 answers the file is written."""
        self._known[content] = answer
        self._new += 1
        if self._new % _SAVE_EVERY == 0:
            self._save()

    def close(self) -> None:
        """Write the file if there are new answers."""
        if self._new:
            self._save()

    def _written(self) -> dict[bytes, bytes]:
        """Return the answers in the file; none if it is missing or damaged."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.msgpack.decode(self._file.read_bytes(), type=dict[bytes, bytes])
        return {}

    def _save(self) -> None:
        """Write the file with these answers and those of other processes."""
        with contextlib.suppress(OSError), locked(self._file.parent):
            self._known = self._written() | self._known
            kept = dict(list(self._known.items())[-_MAX_ANSWERS:])
            new = self._file.with_suffix(".new")
            new.write_bytes(msgspec.msgpack.encode(kept))
            new.replace(self._file)
            self._remove_old_files()

    def _remove_old_files(self) -> None:
        others = set(self._file.parent.glob(f"*{self._file.suffix}")) - {self._file}
        by_age = sorted(others, key=lambda path: path.stat().st_mtime)
        for old in by_age[: max(0, len(others) + 1 - _MAX_FILES)]:
            old.unlink()


EACH: Final = 8  # pictures of a class
_SIDE: Final = 96  # of a picture, in pixels
_TEXT: Final = 132  # width of the column of names
_GAP: Final = 6
_WIDER: Final = 1.3  # size of the cut-out relative to the box, to show the surroundings
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


class ClassSheet:
    """A random sample of the objects of each class. One thread."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._cut: dict[int, list[ByteArray]] = {}
        self._count: dict[int, int] = {}

    def add(self, picture: Picture, boxes: Boxes) -> None:
        """Add a picture's objects; each object of a class has the same chance to be shown."""
        for box, class_id in zip(boxes.xyxy.tolist(), boxes.class_ids.tolist(), strict=True):
            cut = self._cut.setdefault(class_id, [])
            count = self._count.get(class_id, 0) + 1
            self._count[class_id] = count
            if len(cut) < EACH:
                cut.append(_cut_out(picture, box))
                continue
            # Reservoir sampling: object number n replaces a shown one with the chance EACH / n.
            place = int(self._rng.integers(count))
            if place < EACH:
                cut[place] = _cut_out(picture, box)

    def drawn(self, classes: Sequence[tuple[int, str]], suffix: str) -> bytes:
        """Return the sheet as an image file, with a row for each (class id, text).

        suffix: .png or .jpg. ValueError for others.
        """
        width = _TEXT + EACH * (_SIDE + _GAP) + _GAP
        sheet = np.full((len(classes) * (_SIDE + _GAP) + _GAP, width, 3), 255, np.uint8)
        for row, (class_id, words) in enumerate(classes):
            top = _GAP + row * (_SIDE + _GAP)
            for line, text in enumerate(words.split("\n")):
                at = (_GAP, top + 20 + 18 * line)
                cv2.putText(sheet, text, at, _FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
            for column, cut in enumerate(self._cut.get(class_id, ())):
                left = _TEXT + column * (_SIDE + _GAP)
                height, wide = cut.shape[:2]
                sheet[top : top + height, left : left + wide] = cut
        try:
            _, coded = cv2.imencode(suffix, sheet)
        except cv2.error as error:
            raise ValueError(f"{suffix or 'no ending'}: allowed are .jpg and .png") from error
        return coded.tobytes()


def _cut_out(picture: Picture, box: Sequence[float]) -> ByteArray:
    """Return the surroundings of a box, at most _SIDE pixels high and wide, with the box drawn."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top, 8) * _WIDER / 2
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    x1, y1 = max(0, int(middle_x - half)), max(0, int(middle_y - half))
    x2, y2 = min(picture.width, int(middle_x + half)), min(picture.height, int(middle_y + half))
    scale = _SIDE / max(x2 - x1, y2 - y1)
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    whole = to_bgr(picture, (picture.width, picture.height), (x1, y1, x2, y2))
    interpolation = cv2.INTER_LINEAR
    if scale < 1:
        interpolation = cv2.INTER_AREA
    cut = cv2.resize(whole, size, interpolation=interpolation)
    corners = [round((box[0] - x1) * scale), round((box[1] - y1) * scale)]
    corners += [round((box[2] - x1) * scale), round((box[3] - y1) * scale)]
    cv2.rectangle(cut, corners[:2], corners[2:], (40, 40, 230), 1, cv2.LINE_AA)
    return cut.astype(np.uint8, copy=False)[:_SIDE, :_SIDE]
