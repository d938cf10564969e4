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
from framegate.models.detector.precision_trial import locked
from framegate.models.learning.teacher import Said
from framegate.models.picture import ByteArray, Picture
from framegate.models.preprocess import to_bgr
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
        """model: heavy, or NAME, NAME@VERSION or NAME@DIGEST of the registry; threads: of one
        inference, 0: as many as there are cores; answers: folder where they are kept, None: this
        user's own.

        Raises UnknownModel and others as ModelOpener.open; ConfigFaults for a model none of whose
        labels is COCO's.
        """
        threads = threads or precision_trial.cores_available()
        self.asked = self.known = 0
        self._by_people = False
        if model == HEAVY:
            self._detector = detector.load(HEAVY, threads=threads)
        else:
            found = registry.find(model)
            choice = precision_trial.run(user_cache() / "precision.json", tried=tried_of(found))
            self._detector = open_model(found, choice.precision, threads)
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
        """Return the teacher's name as results name models; "people" if people labelled any
        picture.
        """
        models = "+".join(self._detector.models)
        return (
            f"{PEOPLE} and {models}"
            if self._by_people and self.asked
            else (PEOPLE if self._by_people else models)
        )

    def of(self, frame: FootageFrame) -> Said:
        """Return the objects of a picture: people's labels, else the model's answer."""
        known = frame.known
        if known is not None and known.by_people:
            self._by_people = True
            said = (_as_coco(boxes, known.labels) for boxes in (known.sure, known.unsure))
            return Said(*said)
        content = content_of(frame.picture)
        kept = self._kept.find(content)
        boxes = None if kept is None else Boxes.read(kept)
        if boxes is None:
            [boxes] = self._detector.detect([frame.picture])
            boxes = _as_coco(boxes, self._detector.labels)
            self._kept.keep(content, boxes.to_bytes())
            self.asked += 1
        else:
            self.known += 1
        return Said(boxes, empty())

    def close(self) -> None:
        """Keep what was answered."""
        self._kept.close()


def content_of(picture: Picture) -> bytes:
    """16 bytes, equal for pictures that are equal."""
    digest = xxhash.xxh3_128(repr((picture.matrix, picture.full_range, picture.y.shape)).encode())
    for plane in (picture.y, picture.u, picture.v):
        digest.update(np.ascontiguousarray(plane).data)
    return digest.digest()


def _as_coco(boxes: Boxes, labels: tuple[str, ...]) -> Boxes:
    """With COCO's class ids; what COCO has no class for is left out."""
    if labels == coco.LABELS:
        return boxes
    ids = [coco.LABELS.index(label) if label in coco.LABELS else -1 for label in labels]
    renamed = np.array([ids[i] for i in boxes.class_ids.tolist()], np.int32)
    found = Boxes(boxes.xyxy, boxes.scores, renamed)
    return found.take(renamed >= 0)


_KEPT: Final = 20_000  # answers, of some 400 bytes
_KEPT_FILES: Final = 8
_SAVE_EVERY: Final = 25  # answers


class KeptAnswers:
    """Answers, as bytes, by the content that was asked about. One thread.

    Several processes may keep answers in the same file; it ends up with those of all.

    file  where those of one model, with all that decides beside the content, are kept; the eight
          newest files of a folder are. Where nothing can be written it is done without
    """

    def __init__(self, file: Path) -> None:
        self._file, self._new = file, 0
        self._known = self._written()

    def find(self, content: bytes) -> bytes | None:
        """The answer, None where it is not known."""
        return self._known.get(content)

    def keep(self, content: bytes, answer: bytes) -> None:
        """Note an answer; now and then all are written."""
        self._known[content] = answer
        self._new += 1
        if self._new % _SAVE_EVERY == 0:
            self._save()

    def close(self) -> None:
        """Write what is new."""
        if self._new:
            self._save()

    def _written(self) -> dict[bytes, bytes]:
        """Return the answers in the file; none if it is missing or damaged."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.msgpack.decode(self._file.read_bytes(), type=dict[bytes, bytes])
        return {}

    def _save(self) -> None:
        """Replace the file by one that also has what other processes have written to it."""
        with contextlib.suppress(OSError), locked(self._file):
            self._known = self._written() | self._known
            kept = dict(list(self._known.items())[-_KEPT:])
            new = self._file.with_suffix(".new")
            new.write_bytes(msgspec.msgpack.encode(kept))
            new.replace(self._file)
            self._remove_old_files()

    def _remove_old_files(self) -> None:
        others = set(self._file.parent.glob(f"*{self._file.suffix}")) - {self._file}
        by_age = sorted(others, key=lambda path: path.stat().st_mtime)
        for old in by_age[: max(0, len(others) + 1 - _KEPT_FILES)]:
            old.unlink()


EACH: Final = 8  # pictures of a class
_SIDE: Final = 96  # of one, in pixels
_TEXT: Final = 132  # width of the names' column
_GAP: Final = 6
_WIDER: Final = 1.3  # than the box, so that one sees where it is
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
            count = self._count[class_id] = self._count.get(class_id, 0) + 1
            if len(cut) < EACH:
                cut.append(_cut_out(picture, box))
            elif (place := int(self._rng.integers(count))) < EACH:
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
    cut = cv2.resize(whole, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    corners = [round((box[0] - x1) * scale), round((box[1] - y1) * scale)]
    corners += [round((box[2] - x1) * scale), round((box[3] - y1) * scale)]
    cv2.rectangle(cut, corners[:2], corners[2:], (40, 40, 230), 1, cv2.LINE_AA)
    return cut.astype(np.uint8, copy=False)[:_SIDE, :_SIDE]
