"""A request to train, and the folder in which it is stored until the training ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.models import coco
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.learning.choices import HEAVY, TRAIN_FRAMES, ClassChoice, ClassWishes

ASKED: Final = "training.msgpack"


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """A request to train.

    sources   footage, as read_footage takes it; frames  most pictures of it
    side      longer side of the input; None: the smallest of SIDES that is good enough
    minutes   of training; None: STEPS steps
    folder    folder of the training's state until it ends
    wishes    about classes, as wishes_of returns them
    labels    files of people's labels, as read_footage takes them
    """

    name: str
    sources: tuple[str, ...]
    folder: Path
    side: int | None = None
    minutes: float | None = None
    processes: int = 1
    device: str = "cpu"
    seed: int = 0
    frames: int = TRAIN_FRAMES
    teacher: str = HEAVY
    registry: Path | None = None
    wishes: ClassWishes = ((), {})
    labels: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedRequest:
    """A request with the chosen classes; None: not chosen so far."""

    request: TrainRequest
    choice: ClassChoice | None = None

    @property
    def classes(self) -> ClassChoice:
        """Return the chosen classes."""
        assert self.choice is not None
        return self.choice

    @property
    def kept(self) -> list[int]:
        """Return COCO's ids of the student's classes, in their order."""
        return sorted(coco.LABELS.index(label) for label in self.classes.kept)

    @property
    def merged(self) -> dict[int, int]:
        """Return class id -> the class that it is counted as."""
        return {coco.LABELS.index(a): coco.LABELS.index(b) for a, b in self.classes.merged.items()}


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock the folder of a training for this process. ConfigFaults."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigFaults([f"-d {folder}: {error.strerror}"]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigFaults([f"-d {folder}: another training is active in it"]) from error
    except OSError as error:
        raise ConfigFaults([f"-d {folder}: {error.strerror or error}"]) from error
    finally:
        os.close(lock)
        with suppress(OSError):
            folder.rmdir()  # where nothing was kept


def read_request(request: TrainRequest, resume: bool) -> SavedRequest:
    """Return the request, or the stored one to continue. ConfigFaults."""
    folder = request.folder
    file = folder / ASKED
    if not file.exists():
        if resume:
            raise ConfigFaults([f"--resume: {folder} has no training to continue"])
        if any(folder.iterdir()):
            raise ConfigFaults([f"-d {folder}: it is not empty; allowed is a new folder"])
        return SavedRequest(request)
    try:
        before = msgspec.msgpack.decode(file.read_bytes(), type=SavedRequest, dec_hook=_path)
    except msgspec.MsgspecError as error:
        raise ConfigFaults([f"-d {folder}: {ASKED}: {error}"]) from error
    now = replace(before.request, folder=folder, processes=request.processes, device=request.device)
    if before.request.name != request.name or not (resume or now == request):
        raise ConfigFaults(
            [f"-d {folder}: it has an unfinished training of {before.request.name} with other "
             "options; --resume continues it, another folder starts a new one"]
        )  # fmt: skip
    return SavedRequest(now, before.choice)


def save_request(asked: SavedRequest) -> None:
    """Write the request into its folder, atomically."""
    file = asked.request.folder / ASKED
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.msgpack.encode(asked, enc_hook=str))
    new.replace(file)


def _path(kind: type, value: Any) -> Any:
    return kind(value)
