"""The teacher of footage: the heavy pass, a model of the registry, or people's labels.

Answers of models are kept on this machine, so a repeated call on the same footage starts from them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
import xxhash

from framegate.models import coco
from framegate.models.boxes import Boxes, empty
from framegate.models.detector import detector, precision_trial
from framegate.models.detector.precision_trial import locked
from framegate.models.learning.teacher import Said
from framegate.models.picture import Picture
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
