"""A measured choice: which precision and how many threads serve this CPU best."""

import fcntl
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import openvino as ov

from framegate.models.detector.member import Runtime
from framegate.models.detector.network import Network, Precision, cpu_model, shipped, supported
from framegate.models.errors import ModelUnreadable
from framegate.models.picture import ByteArray

# More threads must bring the time below this share: the cores are wanted elsewhere too.
WORTH_MORE_THREADS = 0.90
SAME_TIME = 1.05
_MOST_EXACT_FIRST: tuple[Precision, ...] = (
    "f32", "f32+onnx", "bf16", "int8+bf16", "int8", "int8+onnx",
)  # fmt: skip
_MIN_ROUNDS = 3

TrialSetting = tuple[Precision, int]


@dataclass(frozen=True, slots=True)
class Tried:
    """A model whose precision and threads are to be chosen.

    precisions  that there are on this machine
    open        compiles it at one, for so many threads; ModelUnreadable leaves that one out
    size        (width, height) of the input
    weights     names the weights of all
    """

    precisions: tuple[Precision, ...]
    open: Callable[[Precision, int], Runtime]
    size: tuple[int, int]
    weights: str


def light() -> Tried:
    """The light detector, on 16:9 video. Raises ModelUnreadable."""
    files = {precision: shipped("nanodet", precision) for precision in supported()}
    heads = ("head8", "head16", "head32")
    weights = "+".join(dict.fromkeys(file.sha256[:16] for file in files.values()))
    return Tried(supported(), lambda p, n: Network(files[p], heads, p, n), (416, 256), weights)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the trial chose: precision, threads, and the median milliseconds of one inference."""

    precision: Precision
    threads: int
    ms: float

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision: {self.precision!r}")
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads: {self.threads!r}")
        if not isinstance(self.ms, float) or not self.ms > 0:
            raise ValueError(f"ms: {self.ms!r}")


def candidates(precisions: Sequence[Precision], cores: int) -> list[TrialSetting]:
    """Every precision at one thread, half the cores and all of them."""
    counts = sorted({1, max(1, cores // 2), max(1, cores)})
    return [(precision, threads) for precision in precisions for threads in counts]


def choose(median_ms: Mapping[TrialSetting, float]) -> Choice:
    """The fastest; but fewer threads where more gain less than a tenth of the time.

    Every shipped precision keeps the accuracy (benchmarks/results/detectors.json), so time decides;
    of precisions within a twentieth of each other the more exact one is taken, so that noise does
    not. Raises ValueError when nothing was measured.
    """
    best: Choice | None = None
    for threads in sorted({threads for _, threads in median_ms}):
        times = {p: float(ms) for (p, t), ms in median_ms.items() if t == threads}
        limit = min(times.values()) * SAME_TIME
        precision = next(p for p in _MOST_EXACT_FIRST if times.get(p, math.inf) <= limit)
        if best is None or times[precision] < best.ms * WORTH_MORE_THREADS:
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
    """
    taken: dict[TrialSetting, list[float]] = {candidate: [] for candidate in runs}
    end = clock() + budget_s
    rounds = 0
    while rounds <= _MIN_ROUNDS or clock() < end:
        for candidate, run in runs.items():
            start = clock()
            run()
            if rounds:
                taken[candidate].append((clock() - start) * 1e3)
        rounds += 1
    return {candidate: statistics.median(ms) for candidate, ms in taken.items()}


def run(
    cache: Path | None = None,
    budget_s: float = 1.0,
    cores: int | None = None,
    tried: Tried | None = None,
) -> Choice:
    """The choice for a model (None: the light detector) on this machine, measured or known.

    The file `cache` holds choices by CPU, cores, OpenVINO version and weights; if it is missing,
    not readable or says nothing about this model and machine, a new trial is made and written.
    Besides the budget, compiling the candidates takes a second. Raises ModelUnreadable,
    WarmUpFailed.
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
    networks: dict[TrialSetting, Runtime] = {}
    for precision, threads in candidates(tried.precisions, cores):
        with suppress(ModelUnreadable):
            networks[precision, threads] = tried.open(precision, threads)
    if not networks:
        tried.open(tried.precisions[0], 1)  # says why
    picture = np.full((tried.size[1], tried.size[0], 3), 114, np.uint8)
    for network in networks.values():
        network.warm_up([tried.size])
    runs = {one: partial(_infer, network, picture) for one, network in networks.items()}
    return choose(measure(runs, budget_s))


def _infer(network: Runtime, picture: ByteArray) -> None:
    network.read(network.submit(picture), lambda _: None)


def cores_available() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_key(cores: int, tried: Tried) -> str:
    """What a choice holds for: CPU model, precisions, cores, OpenVINO version, weights."""
    precisions = "/".join(tried.precisions)
    parts = (cpu_model(), precisions, f"{cores} cores", ov.__version__, tried.weights)
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
