"""A student's course: steps of training, kept whole on disk, the same after a kill as without.

Needs torch (the `train` extra). AdamW (Loshchilov and Hutter, ICLR 2019) with warm-up and a cosine,
and a running mean of the weights, which is what serves. What a step does follows from the seed, its
number and what the step before left, so a checkpoint holds no state of random numbers.

Several processes share each batch by torch's DistributedDataParallel over gloo, on this machine's
loopback; the loss is divided by the sum of targets of all of them, so their gradients are those of
one process with the whole batch.
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
from typing import Final, Literal

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor, distributed, nn

from framegate.models import matching
from framegate.models.boxes import Boxes, suppress
from framegate.models.detector.network import supported
from framegate.models.errors import TrainingRefused
from framegate.models.formats.nanodet import decode
from framegate.models.training.detection_loss import lost
from framegate.models.training.lessons import Lessons, batch, plain
from framegate.models.training.student import Architecture, Student, as_input

Arithmetic = Literal["f32", "bf16"]
CHECKPOINT = "checkpoint.pt"
_VERSION: Final = 3  # of a checkpoint
_UNREADABLE: Final = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError,
                      pickle.UnpicklingError)  # fmt: skip
_WARM_UP, _LAST_SHARE, _MOST_NORM = 30, 0.02, 10.0
_MEAN_KEEPS: Final = 0.995  # of the running mean of the weights, a step
_KEEP_EVERY_S: Final = 30.0
_F1_EVERY: Final = 100
_TRIAL_STEPS: Final = 4
_LEAST_SCORES: Final = (0.3, 0.4, 0.5, 0.6)  # that the F1 on the way is the best of


@dataclass(frozen=True, slots=True)
class Course:
    """What decides a training beside student and lessons.

    steps       of `pictures` augmented pictures each
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
    """A student on its course through the earlier ones of its lessons.

    The net is trained in place; `student` gives what serves. One thread at a time. Of several
    processes (see `group`) each has one of these, made alike, and all call `step` alike. Raises
    TrainingRefused for a net of other classes.
    """

    def __init__(self, net: Student, lessons: Lessons, course: Course) -> None:
        if len(lessons.labels) != net.architecture.n_classes:
            raise TrainingRefused(
                f"lessons of {len(lessons.labels)} classes, for a network of "
                f"{net.architecture.n_classes}"
            )
        self.lessons, self.course, self.done = lessons, course, 0
        self._device = torch.device(course.device)
        self.net = net.to(self._device).to(memory_format=torch.channels_last).train()
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
        """One step: its loss, and whether this or another process says `stop`."""
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
        """What `step` goes by, in the weights of the net; the answer is `step`'s."""
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
            heads = self._shared(as_input(np.stack([one.bgr for one in seen])).to(self._device))[:3]
        one = lost(heads, [one.objects.to(self._device) for one in seen], self.lessons.size)
        said = torch.stack([one.total.detach(), one.targets, one.targets.new_tensor(float(stop))])
        if self._n > 1:
            distributed.all_reduce(said)
        total, targets, stops = said.tolist()
        self._optimiser.zero_grad()
        # DistributedDataParallel takes the mean over processes; wanted is the sum.
        (one.total * (self._n / max(1.0, targets))).backward()
        return total / max(1.0, targets), stops > 0

    def _rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.done / self.course.steps))
        warm = min(1.0, (self.done + 1) / _WARM_UP)
        return self.course.rate * warm * (_LAST_SHARE + (1 - _LAST_SHARE) * cosine)

    def student(self) -> Student:
        """A copy with the running means of the weights, on the CPU, in evaluation mode."""
        net: Student = copy.deepcopy(self.net)
        net.cpu().eval()
        with torch.no_grad():
            for number, mean in zip(_numbers(net), self._mean, strict=True):
                number.copy_(mean)
        return net

    def save(self, folder: Path) -> None:
        """Write the checkpoint of `folder`, whole: a kill leaves this one or the one before.

        Raises TrainingRefused where it cannot be written; the one before is still there.
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
        """A training that goes on from the checkpoint of `folder`, with the same lessons.

        device  None: the same as before. Raises TrainingRefused.
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
            raise TrainingRefused(f"{file}: it is of other lessons than those beside it")
        course = replace(course, device=device or course.device)
        training = cls(Student(architecture), lessons, course)
        training.net.load_state_dict(state["net"])
        training._optimiser.load_state_dict(state["optimiser"])
        training._mean = [mean.to(training._device) for mean in state["mean"]]
        training.done = state["done"]
        return training


def digest_of(lessons: Lessons) -> str:
    """sha256 of all that a student learns from."""
    learned = lessons.labels, lessons.size, lessons.earlier
    return hashlib.sha256(msgspec.msgpack.encode(learned)).hexdigest()


def _numbers(net: nn.Module) -> list[Tensor]:
    """Return the weights, which training changes."""
    return list(net.state_dict().values())


def weights_digest(net: nn.Module) -> str:
    """sha256 of a network's weights, in their order."""
    found = hashlib.sha256()
    for weight in net.state_dict().values():
        found.update(weight.contiguous().numpy().tobytes())
    return found.hexdigest()


# -- How long a step takes, and in which arithmetic it is the fastest.


def fastest(net: Student, lessons: Lessons, course: Course, n: int = 1) -> tuple[Arithmetic, float]:
    """The arithmetic that takes least, and seconds of a step, with the pictures of one of `n`."""
    own = replace(course, pictures=course.pictures // n)
    found: list[tuple[float, Arithmetic]] = []
    for arithmetic in _arithmetics(course.device):
        trial = Training(copy.deepcopy(net), lessons, replace(own, arithmetic=arithmetic))
        taken = []
        for _ in range(_TRIAL_STEPS):
            start = time.perf_counter()
            trial.step()
            taken.append(time.perf_counter() - start)
        found.append((statistics.median(taken[1:]), arithmetic))
    seconds, arithmetic = min(found)
    return arithmetic, seconds


def _arithmetics(device: str) -> tuple[Arithmetic, ...]:
    if device == "cpu" and "bf16" not in supported():  # it would be computed in f32, and slower
        return ("f32",)
    return ("f32", "bf16")


# -- A training from where it is to its end.


def train(
    training: Training,
    folder: Path,
    tell: Callable[[int, float, float], None],
    stops: Callable[[], bool],
) -> bool:
    """Goes on until the course is over: True; or until somebody wants to stop: False.

    folder  where a checkpoint is written each half minute, at the end and when it stops
    tell    takes the steps done, the loss, a running mean, and the F1 so far on later lessons, by
            which nothing is decided
    stops   asked after each step

    Raises TrainingRefused.
    """
    f1, mean_loss, kept = 0.0 if training.rank else f1_of(training), 0.0, time.monotonic()
    while training.done < training.course.steps:
        loss, is_over = training.step(stops())
        mean_loss = mean_loss + (loss - mean_loss) / 20 if mean_loss else loss
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
    """F1 of a student's boxes with the teacher's, at the best of a few least scores."""
    net, lessons = training.student(), training.lessons
    ours, theirs = [], []
    for one in lessons.later:
        with torch.inference_mode():
            heads = net(as_input(plain(one, lessons.size).bgr[None]))[:3]
        maps = [head[0].contiguous().numpy() for head in heads]
        found = decode(maps, min(_LEAST_SCORES), n_classes=len(lessons.labels))
        ours.append(found.take(suppress(found.xyxy, found.scores)))
        theirs.append(Boxes.from_bytes(one.sure))
    return max(
        float(matching.f1(matching.matched([b.take(b.scores > least) for b in ours], theirs)))
        for least in _LEAST_SCORES
    )


# -- Several processes: one that tells and writes, and others beside it.


@contextmanager
def beside(folder: Path, n: int) -> Iterator[None]:
    """This process as the first of `n`; what the others need lies in `folder`, and they go on from
    its checkpoint. They end with the block.

    Raises TrainingRefused if one of them ended before.
    """
    meeting = Path(tempfile.mkdtemp(prefix="framegate-train-")) / "meeting"
    command = [sys.executable, "-m", __name__, str(folder), str(meeting), str(n)]
    others = [subprocess.Popen([*command, str(rank)]) for rank in range(1, n)]
    try:
        with _group(meeting, n, 0):
            yield
    except RuntimeError as fault:  # of gloo: it lost one
        raise TrainingRefused(f"a process beside this one ended: {fault}") from fault
    finally:
        for one in others:  # they have nothing to lose
            one.kill()
            one.wait()
        shutil.rmtree(meeting.parent)


@contextmanager
def _group(meeting: Path, n: int, rank: int) -> Iterator[None]:
    """This process as one of `n`, which find each other by the file `meeting`, and no other."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=n)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def settle_down() -> None:
    """One thread: two processes that share each step are faster than one with two."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _other(folder: Path, meeting: Path, n: int, rank: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first says when all stop
    settle_down()
    with _group(meeting, n, rank):
        lessons = msgspec.structs.replace(Lessons.read(folder), later=[])
        train(Training.resumed(folder, lessons), folder, lambda *_: None, lambda: False)


if __name__ == "__main__":
    _other(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
