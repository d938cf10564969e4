"""The training of a student, with atomic checkpoints; a killed training continues with equal steps.

Needs torch (the `train` extra). The optimiser is AdamW (Loshchilov and Hutter, ICLR 2019) with
warm-up and a cosine schedule. A running mean of the weights serves. The seed, the number of a step
and the state before it determine the step, so a checkpoint has no state of random numbers.

Several processes share each batch by torch's DistributedDataParallel over gloo, on this machine's
loopback. The loss is divided by the sum of the targets of all processes, so their gradients equal
those of a single process with the whole batch.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import pickle
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor, distributed, nn

from framegate.models import matching
from framegate.models.boxes import Boxes, suppress
from framegate.models.detector.network import supported
from framegate.models.errors import TrainingRefused
from framegate.models.formats.nanodet import decode_cells
from framegate.models.training.detection_loss import lost
from framegate.models.training.lessons import Lessons, batch, plain
from framegate.models.training.nanodet_plus import Architecture, NanoDetPlus, as_input

Arithmetic = Literal["f32", "bf16"]
CHECKPOINT = "checkpoint.pt"
_LAYOUT: Final[dict[str, Any]] = {"memory_format": torch.channels_last}  # no stub has this argument
_VERSION: Final = 4  # of a checkpoint
_UNREADABLE: Final = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError,
                      pickle.UnpicklingError)  # fmt: skip
_WARM_UP, _LAST_SHARE, _MOST_NORM = 30, 0.02, 10.0
_MEAN_KEEPS: Final = 0.995  # share of the running mean of the weights that a step keeps
_KEEP_EVERY_S: Final = 30.0
_F1_EVERY: Final = 100
_TRIAL_STEPS: Final = 4
_LEAST_SCORES: Final = (0.3, 0.4, 0.5, 0.6)  # the reported F1 is that of the best threshold


@dataclass(frozen=True, slots=True)
class Course:
    """The settings of a training, which determine the weights together with student and lessons.

    steps       number of steps, of `pictures` augmented pictures each
    rate        the highest learning rate
    arithmetic  of the layers; weights and losses stay f32
    device      cpu or cuda
    """

    steps: int
    seed: int = 0
    pictures: int = 8
    rate: float = 4e-4
    arithmetic: Arithmetic = "f32"
    device: str = "cpu"


class Training:
    """A student in training on the earlier lessons.

    `net` is trained in place; `student` returns the network that serves. One thread at a time. With
    several processes (see `beside`) each has an equal Training, and all call `step` equally often.
    Raises TrainingRefused if network and lessons have other numbers of classes.
    """

    def __init__(self, net: NanoDetPlus, lessons: Lessons, course: Course) -> None:
        if len(lessons.labels) != net.architecture.n_classes:
            raise TrainingRefused(
                f"lessons of {len(lessons.labels)} classes, for a network of "
                f"{net.architecture.n_classes}"
            )
        self.lessons, self.course, self.done = lessons, course, 0
        self._device = torch.device(course.device)
        self.net = net.to(self._device).to(**_LAYOUT).train()
        self._mean = [now.clone() for now in _numbers(self.net)]
        self._optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=course.rate, betas=(0.9, 0.99), weight_decay=0.02
        )
        self.rank, self._n = 0, 1
        self._shared: nn.Module = self.net
        if distributed.is_initialized():
            self.rank, self._n = distributed.get_rank(), distributed.get_world_size()
            self._shared = nn.parallel.DistributedDataParallel(self.net)

    def step(self, stop: bool = False) -> tuple[float, bool]:
        """Do a step; return its loss, and whether this or another process passed `stop`."""
        loss, stops = self.gradients(stop)
        nn.utils.clip_grad_norm_(self.net.parameters(), _MOST_NORM)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        self._optimiser.step()
        self.done += 1
        keeps = min(_MEAN_KEEPS, self.done / (self.done + 9))
        with torch.no_grad():
            for mean, now in zip(self._mean, _numbers(self.net), strict=True):
                mean.lerp_(now, 1 - keeps)
        return loss, stops

    def gradients(self, stop: bool = False) -> tuple[float, bool]:
        """Compute the gradients of a step in the weights of `net`; return as `step`."""
        here = self.course.pictures // self._n
        places = range(self.rank * here, (self.rank + 1) * here)
        seen = batch(
            self.lessons.earlier,
            self.lessons.size,
            self.course.seed,
            self.done,
            places,
            self.course.pictures,
        )
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.course.arithmetic == "bf16"
        ):
            cells = self._shared(as_input(np.stack([one.bgr for one in seen])).to(self._device))
        one = lost(cells, [one.objects.to(self._device) for one in seen], self.lessons.size)
        said = torch.stack([one.total.detach(), one.targets, one.targets.new_tensor(float(stop))])
        if self._n > 1:
            distributed.all_reduce(said)
        total, targets, stops = said.tolist()
        self._optimiser.zero_grad()
        # DistributedDataParallel averages over processes; the step needs the sum.
        (one.total * (self._n / max(1.0, targets))).backward()
        return total / max(1.0, targets), stops > 0

    def _rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.done / self.course.steps))
        warm = min(1.0, (self.done + 1) / _WARM_UP)
        return self.course.rate * warm * (_LAST_SHARE + (1 - _LAST_SHARE) * cosine)

    def student(self) -> NanoDetPlus:
        """Return a copy with the running means of the weights, on the CPU, in evaluation mode."""
        net: NanoDetPlus = copy.deepcopy(self.net)
        net.cpu().eval()
        with torch.no_grad():
            for number, mean in zip(_numbers(net), self._mean, strict=True):
                number.copy_(mean)
        return net

    def save(self, folder: Path) -> None:
        """Write the checkpoint of `folder` atomically: a kill leaves this one or the previous one.

        Raises TrainingRefused if it cannot be written; the previous checkpoint stays.
        """
        state = {
            "v": _VERSION,
            "architecture": asdict(self.net.architecture),
            "course": asdict(self.course),
            "lessons": digest_of(self.lessons),
            "done": self.done,
            "net": self.net.state_dict(),
            "mean": self._mean,
            "optimiser": self._optimiser.state_dict(),
        }
        new = folder / f"{CHECKPOINT}.new"
        try:
            with new.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(folder / CHECKPOINT)
        except (OSError, RuntimeError) as fault:  # torch has its own error for a full disk
            new.unlink(missing_ok=True)
            raise TrainingRefused(f"{new}: cannot be written: {fault}") from fault

    @classmethod
    def resumed(cls, folder: Path, lessons: Lessons, device: str | None = None) -> Training:
        """Return the training of the checkpoint in `folder`, with the same lessons.

        device  None: the same as before

        Raises TrainingRefused.
        """
        file = folder / CHECKPOINT
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            if state["v"] != _VERSION:
                raise TrainingRefused(
                    f"{file}: of version {state['v']}, by another Framegate; allowed is {_VERSION}"
                )
            architecture = msgspec.convert(state["architecture"], Architecture)
            course = Course(**state["course"])
        except FileNotFoundError as fault:
            raise TrainingRefused(f"{file}: no such file, so there is nothing to resume") from fault
        except _UNREADABLE as fault:
            raise TrainingRefused(f"{file}: no checkpoint that can be read: {fault}") from fault
        if state["lessons"] != digest_of(lessons):
            raise TrainingRefused(f"{file}: it was made with other lessons than those beside it")
        course = replace(course, device=device or course.device)
        training = cls(NanoDetPlus(architecture), lessons, course)
        training.net.load_state_dict(state["net"])
        training._optimiser.load_state_dict(state["optimiser"])
        training._mean = [mean.to(training._device) for mean in state["mean"]]
        training.done = state["done"]
        return training


def digest_of(lessons: Lessons) -> str:
    """Return the SHA-256 of all data that a student learns from."""
    learned = lessons.labels, lessons.size, lessons.earlier
    return hashlib.sha256(msgspec.msgpack.encode(learned)).hexdigest()


def _numbers(net: nn.Module) -> list[Tensor]:
    """Return the weights, which training changes."""
    return list(net.state_dict().values())


def weights_digest(net: nn.Module) -> str:
    """Return the SHA-256 of a network's weights, in their order."""
    digest = hashlib.sha256()
    for weight in net.state_dict().values():
        digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()


# -- The duration of a step by arithmetic.


def fastest(
    net: NanoDetPlus, lessons: Lessons, course: Course, n: int = 1
) -> tuple[Arithmetic, float]:
    """Return the fastest arithmetic and its seconds per step, for a process of `n`."""
    own = replace(course, pictures=course.pictures // n)
    durations: list[tuple[float, Arithmetic]] = []
    for arithmetic in _arithmetics(course.device):
        trial = Training(copy.deepcopy(net), lessons, replace(own, arithmetic=arithmetic))
        taken = []
        for _ in range(_TRIAL_STEPS):
            start = time.perf_counter()
            trial.step()
            taken.append(time.perf_counter() - start)
        durations.append((statistics.median(taken[1:]), arithmetic))
    seconds, arithmetic = min(durations)
    return arithmetic, seconds


def _arithmetics(device: str) -> tuple[Arithmetic, ...]:
    # Such a CPU would compute bf16 in f32, and slower.
    if device == "cpu" and "bf16" not in supported():
        return ("f32",)
    return ("f32", "bf16")


# -- The loop of a training.


def train(
    training: Training,
    folder: Path,
    tell: Callable[[int, float, float], None],
    stops: Callable[[], bool],
) -> bool:
    """Train until the last step (True), or until a process is asked to stop (False).

    folder  for the checkpoint, which is written every half minute, at the end and at a stop
    tell    called with the number of steps, the running mean of the loss, and F1 on the later
            lessons, which decides nothing
    stops   called before each step; returns whether to stop

    Raises TrainingRefused.
    """
    f1 = 0.0
    if not training.rank:
        f1 = f1_of(training)
    mean_loss = 0.0
    kept = time.monotonic()
    while training.done < training.course.steps:
        loss, is_over = training.step(stops())
        if mean_loss:
            mean_loss += (loss - mean_loss) / 20
        else:
            mean_loss = loss
        if training.rank:
            if is_over:
                return False
            continue
        if training.done % _F1_EVERY == 0:
            f1 = f1_of(training)
        tell(training.done, mean_loss, f1)
        if is_over or time.monotonic() - kept > _KEEP_EVERY_S:
            training.save(folder)
            kept = time.monotonic()
        if is_over:
            return False
    if not training.rank:
        training.save(folder)
    return True


def f1_of(training: Training) -> float:
    """Return F1 of the student's boxes on the later lessons, at the best of some thresholds."""
    net = training.student()
    lessons = training.lessons
    ours: list[Boxes] = []
    theirs: list[Boxes] = []
    for lesson in lessons.later:
        with torch.inference_mode():
            cells = net(as_input(plain(lesson, lessons.size).bgr[None]))[0].numpy()
        n_classes = len(lessons.labels)
        boxes = decode_cells(cells, lessons.size, min(_LEAST_SCORES), n_classes=n_classes)
        ours.append(boxes.take(suppress(boxes.xyxy, boxes.scores)))
        theirs.append(Boxes.from_bytes(lesson.sure))
    best = 0.0
    for least in _LEAST_SCORES:
        shown = [boxes.take(boxes.scores > least) for boxes in ours]
        best = max(best, float(matching.f1(matching.matched(shown, theirs))))
    return best


# -- Several processes: the first reports and writes, the others only compute.


@contextmanager
def beside(folder: Path, n: int) -> Iterator[None]:
    """Make this process the first of `n`, and start the others from the checkpoint of `folder`.

    The other processes end with the block. Raises TrainingRefused if one of them ended before.
    """
    meeting = Path(tempfile.mkdtemp(prefix="framegate-train-")) / "meeting"
    command = [sys.executable, "-m", __name__, str(folder), str(meeting), str(n)]
    others = [subprocess.Popen([*command, str(rank)]) for rank in range(1, n)]
    try:
        with _group(meeting, n, 0):
            yield
    except RuntimeError as fault:  # gloo lost a process
        raise TrainingRefused(f"another process of this training ended: {fault}") from fault
    finally:
        for process in others:  # only this process writes
            process.kill()
            process.wait()
        shutil.rmtree(meeting.parent)


@contextmanager
def _group(meeting: Path, n: int, rank: int) -> Iterator[None]:
    """Make this process one of `n` that find each other by the file `meeting`."""
    loopback = "lo"
    if sys.platform == "darwin":
        loopback = "lo0"
    os.environ["GLOO_SOCKET_IFNAME"] = loopback
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=n)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def settle_down() -> None:
    """Limit this process to one thread: two processes are faster than one with two threads."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _other(folder: Path, meeting: Path, n: int, rank: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process stops all others
    settle_down()
    with _group(meeting, n, rank):
        lessons = msgspec.structs.replace(Lessons.read(folder), later=[])
        train(Training.resumed(folder, lessons), folder, lambda *_: None, lambda: False)


if __name__ == "__main__":
    _other(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
