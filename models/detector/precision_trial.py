"""A measured choice: which precision and how many threads serve this machine best, on which device.

A device beside the CPU is taken only if its answers are the CPU's: its network's outputs, for made
pictures, are held against those of the CPU at the most exact precision that the model has.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.detector.devices import AUTO, described, precisions_on, to_try
from framegate.models.detector.member import Runtime
from framegate.models.detector.network import (
    CPU,
    Network,
    Precision,
    cpu_model,
    shipped,
    supported,
)
from framegate.models.errors import DeviceRefused, ModelError, ModelUnreadable
from framegate.models.formats.nanodet import HEADS
from framegate.models.picture import ByteArray

# What more threads may take of CPU time, times that of fewer: cores are wanted by other sources.
MORE_CPU = 1.1
_RULE = 2  # of the choice: what was chosen by another one is not used
BUDGET_S = 0.5
SAME_TIME = 1.05
_MOST_EXACT_FIRST: tuple[Precision, ...] = (
    "f32", "f32+onnx", "f16", "bf16", "int8+bf16", "int8", "int8+onnx",
)  # fmt: skip
_MIN_ROUNDS = 3
_HOPELESS = 1.5
_OPEN_AT_ONCE = 4

TrialSetting = tuple[Precision, int]


@dataclass(frozen=True, slots=True)
class Tried:
    """A model whose precision and threads are to be chosen.

    precisions  that there are on this machine
    open        compiles it at one, for so many threads; ModelUnreadable leaves that one out
    size        (width, height) of the input
    weights     names the weights of all
    device      that is asked for, as devices.RULE has it
    open_on     compiles it for a device beside the CPU, at a precision
    devices     that may be tried for it, with the precisions of each
    """

    precisions: tuple[Precision, ...]
    open: Callable[[Precision, int], Runtime]
    size: tuple[int, int]
    weights: str
    device: str = CPU
    open_on: Callable[[Precision, str], Runtime] | None = None
    devices: Mapping[str, tuple[Precision, ...]] = field(default_factory=dict)


def light(device: str = CPU) -> Tried:
    """The light detector, on 16:9 video. Raises ModelUnreadable, DeviceMissing."""
    files = {precision: shipped("nanodet", precision) for precision in supported()}
    weights = "+".join(dict.fromkeys(file.sha256[:16] for file in files.values()))
    return Tried(
        supported(),
        lambda p, n: Network(files[p], HEADS, p, n),
        (416, 256),
        weights,
        device,
        lambda p, on: Network(shipped("nanodet", p), HEADS, p, 1, device=on),
        {on: precisions_on(on) for on in to_try(device, with_onnx=False)},
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """What the trial chose: precision, threads, and the median milliseconds of one inference.

    device  CPU, or one whose answers are the CPU's
    note    for a person: why no other device was taken, "" if none was to be
    """

    precision: Precision
    threads: int
    ms: float
    device: str = CPU
    note: str = ""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision: {self.precision!r}")
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads: {self.threads!r}")
        if not isinstance(self.ms, float) or not self.ms > 0:
            raise ValueError(f"ms: {self.ms!r}")
        if not isinstance(self.device, str) or not isinstance(self.note, str):
            raise ValueError(f"device, note: {self.device!r}, {self.note!r}")


def candidates(precisions: Sequence[Precision], cores: int) -> list[TrialSetting]:
    """Every precision at one thread, half the cores and all of them."""
    counts = sorted({1, max(1, cores // 2), max(1, cores)})
    return [(precision, threads) for precision in precisions for threads in counts]


def choose(median_ms: Mapping[TrialSetting, float]) -> Choice:
    """The fastest; but fewer threads where more take a tenth more CPU time, as they mostly do.

    Every shipped precision keeps the accuracy (benchmarks/results/detectors.json), so time decides;
    of precisions within a twentieth of each other the more exact one is taken, so that noise does
    not. Raises ValueError when nothing was measured.
    """
    best: Choice | None = None
    for threads in sorted({threads for _, threads in median_ms}):
        times = {p: float(ms) for (p, t), ms in median_ms.items() if t == threads}
        limit = min(times.values()) * SAME_TIME
        precision = next(p for p in _MOST_EXACT_FIRST if times.get(p, math.inf) <= limit)
        cpu_ms = times[precision] * threads
        if best is None or cpu_ms < best.ms * best.threads * MORE_CPU:
            best = Choice(precision, threads, times[precision])
    if best is None:
        raise ValueError("no candidate was measured")
    return best


def measure(
    runs: Mapping[TrialSetting, Callable[[], object]],
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[TrialSetting, float]:
    """Median milliseconds of each run. In turn, so that a change of load meets all of them alike.

    At least three rounds, then more until `budget_s` seconds are over; the first is not counted.
    After three, those take part no more whose best is far above what another takes on as many
    threads: they would not be chosen, and the time is for the others.
    """
    taken: dict[TrialSetting, list[float]] = {candidate: [] for candidate in runs}
    racing = dict(runs)
    end = clock() + budget_s
    rounds = 0
    while rounds <= _MIN_ROUNDS or clock() < end:
        for candidate, run in racing.items():
            start = clock()
            run()
            if rounds:
                taken[candidate].append((clock() - start) * 1e3)
        if rounds == _MIN_ROUNDS:
            racing = {one: runs[one] for one in runs if not _is_hopeless(one, taken)}
        rounds += 1
    return {candidate: statistics.median(ms) for candidate, ms in taken.items()}


def _is_hopeless(one: TrialSetting, taken: Mapping[TrialSetting, Sequence[float]]) -> bool:
    others = (statistics.median(ms) for (_, threads), ms in taken.items() if threads == one[1])
    return min(taken[one]) > min(others) * _HOPELESS


def run(
    cache: Path | None = None,
    budget_s: float = BUDGET_S,
    cores: int | None = None,
    tried: Tried | None = None,
) -> Choice:
    """The choice for a model (None: the light detector) on this machine, measured or known.

    The file `cache` holds choices by CPU, cores, OpenVINO version and weights, and by devices with
    their drivers where one was asked for; if it is missing, not readable or says nothing about this
    model and machine, a new trial is made and written. Besides the budget, compiling the candidates
    takes a second. Raises ModelUnreadable, WarmUpFailed, and DeviceRefused where another device
    than the CPU was asked for and cannot be taken.
    """
    cores = cores or cores_available()
    tried = tried or light()
    key = machine_key(cores, tried)
    if cache is None:
        return _tried(tried, cores, budget_s)
    if key in (known := read_cache(cache)):
        return known[key]
    with locked(cache):
        if key not in (known := read_cache(cache)):
            known[key] = _tried(tried, cores, budget_s)
            with suppress(OSError):  # then the next one measures again
                write_cache(cache, known)
        return known[key]


def _tried(tried: Tried, cores: int, budget_s: float) -> Choice:
    if tried.device == CPU:
        return _on_cpu(tried, cores, budget_s)
    chosen: list[Choice] = []
    refused: list[DeviceRefused] = []
    right = _Right.of(tried, cores) if tried.devices else None
    for device in tried.devices:
        try:
            assert right is not None
            chosen.append(_on_device(tried, device, right, budget_s))
        except DeviceRefused as error:
            refused.append(error)
    if tried.device != AUTO:
        if refused:
            raise refused[0]
        return chosen[0]
    chosen.append(_on_cpu(tried, cores, budget_s))
    best = min(chosen, key=lambda choice: choice.ms)
    said = [f"{one.device}: {one.ms:.1f} ms a picture" for one in chosen if one is not best]
    said += [f"{error.device}: {error.reason}" for error in refused]
    return replace(best, note="; ".join(said) if tried.devices else "there is no other")


# -- Devices beside the CPU: taken if they answer as the CPU does.


# Of an output's spread on the CPU. With the light network bf16 is off by .005, and one layer of
# some sixty that gives a tenth too little by .03; INT8, whose weights are others, by .08.
MOST_OFF = 0.02
_PICTURES = 6


@dataclass(frozen=True, slots=True)
class _Right:
    """Made pictures, and what the CPU's network gives for each."""

    pictures: tuple[ByteArray, ...]
    answers: tuple[tuple[FloatArray, ...], ...]

    @classmethod
    def of(cls, tried: Tried, cores: int) -> _Right:
        network = tried.open(tried.precisions[0], cores)
        network.warm_up([tried.size])
        pictures = made_pictures(*tried.size)
        return cls(pictures, tuple(_outputs(network, picture) for picture in pictures))


def made_pictures(width: int, height: int) -> tuple[ByteArray, ...]:
    """Pictures to compare devices by, uint8 (height, width, 3): from smooth to noise, always the
    same ones. Every layer has something to do in them; objects need not be there, as numbers are
    compared, not boxes.
    """
    noise = np.random.default_rng(0)
    made = []
    for number in range(_PICTURES):
        cells = 4 << number
        coarse = noise.integers(0, 256, (-(-height // cells), -(-width // cells), 3), np.uint8)
        large = coarse.repeat(cells, axis=0).repeat(cells, axis=1)
        made.append(np.ascontiguousarray(large[:height, :width]))
    return tuple(made)


def difference(right: Sequence[FloatArray], found: Sequence[FloatArray]) -> float:
    """How far outputs are from the right ones: the root mean square of what they differ by, as a
    share of the right ones' standard deviation, of the output where that is most.

    inf where shapes differ or a number is none.
    """
    if [array.shape for array in right] != [array.shape for array in found]:
        return math.inf
    off = 0.0
    for expected, given in zip(right, found, strict=True):
        if not np.isfinite(given).all():
            return math.inf
        distance = float(np.sqrt(np.mean(np.square(given - expected, dtype=np.float64))))
        off = max(off, distance / max(float(expected.std()), 1e-6))
    return off


def _on_device(tried: Tried, device: str, right: _Right, budget_s: float) -> Choice:
    """The fastest precision of a device with which it agrees. DeviceRefused if there is none."""
    assert tried.open_on is not None
    runs: dict[TrialSetting, Callable[[], object]] = {}
    why = "it computes in no precision that is known here"
    for precision in tried.devices[device]:
        try:
            network = tried.open_on(precision, device)
            network.warm_up([tried.size])
            off = max(
                difference(answer, _outputs(network, picture))
                for answer, picture in zip(right.answers, right.pictures, strict=True)
            )
        except (ModelError, RuntimeError) as error:  # OpenVINO raises the latter
            lines = [line for line in str(error).splitlines() if line.strip()]
            why = f"it does not compute this network ({lines[-1][:200] if lines else error!r})"
            continue
        if off > MOST_OFF:
            why = (
                f"its answers are not the CPU's: they differ by {off:.1%} in {precision}, and "
                f"{MOST_OFF:.0%} are allowed"
            )
            continue
        runs[precision, 1] = partial(_infer, network, right.pictures[0])
    if not runs:
        raise DeviceRefused(device, why)
    return replace(choose(measure(runs, budget_s)), device=device)


def _outputs(network: Runtime, picture: ByteArray) -> tuple[FloatArray, ...]:
    token = network.submit(picture)
    return network.read(token, lambda outputs: tuple(output.copy() for output in outputs))


def _on_cpu(tried: Tried, cores: int, budget_s: float) -> Choice:
    settings = candidates(tried.precisions, cores)
    with ThreadPoolExecutor(min(cores, _OPEN_AT_ONCE)) as opening:  # most of a trial without it
        opened = opening.map(partial(_opened, tried), settings)
        networks = {one: network for one, network in zip(settings, opened, strict=True) if network}
    if not networks:
        tried.open(tried.precisions[0], 1)  # says why
    picture = np.full((tried.size[1], tried.size[0], 3), 114, np.uint8)
    runs = {one: partial(_infer, network, picture) for one, network in networks.items()}
    return choose(measure(runs, budget_s))


def _opened(tried: Tried, setting: TrialSetting) -> Runtime | None:
    with suppress(ModelUnreadable):
        network = tried.open(*setting)
        network.warm_up([tried.size])
        return network
    return None


def _infer(network: Runtime, picture: ByteArray) -> None:
    network.read(network.submit(picture), lambda _: None)


def cores_available() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_key(cores: int, tried: Tried) -> str:
    """What a choice holds for: CPU model, precisions, cores, OpenVINO version, weights; and what
    device was asked for, with all that may be it.
    """
    import openvino as ov

    precisions = "/".join(tried.precisions)
    parts = [
        cpu_model(),
        precisions,
        f"{cores} cores",
        f"rule {_RULE}",
        ov.__version__,
        tried.weights,
    ]
    if tried.device != CPU:
        parts += [tried.device, *(described(device) for device in tried.devices)]
    return " | ".join(parts)


def read_cache(path: Path) -> dict[str, Choice]:
    """The choices in the file; empty when it is missing or any part of it makes no sense."""
    try:
        return {str(key): Choice(**value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One at a time, over all processes, for whoever reads, decides and writes this file; where its
    folder cannot be opened, unlocked.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def write_cache(path: Path, choices: Mapping[str, Choice]) -> None:
    """Replaces the file at once, so that a reader never sees half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: asdict(choice) for key, choice in choices.items()}, indent=1)
    new = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    new.write_text(text)
    new.replace(path)
