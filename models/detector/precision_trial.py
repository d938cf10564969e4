"""Choose the device, precision and threads of a model by a measurement on this machine.

Another device than the CPU is chosen only if its outputs agree with those of the CPU, on generated
pictures, at the most exact precision of the model.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.detector import policy
from framegate.models.detector.compiled_networks import locked
from framegate.models.detector.device_names import AUTO, CPU
from framegate.models.detector.devices import described, precisions_on, to_try
from framegate.models.detector.member import Runtime
from framegate.models.detector.network import (
    Precision,
    cpu_model,
    precisions_of,
    shipped,
)
from framegate.models.detector.shipped_networks import NETWORKS, compiled
from framegate.models.errors import DeviceRefused, ModelError, ModelUnreadable
from framegate.models.picture import ByteArray

# Factor of CPU time up to which more threads are better: other sources need the cores as well.
MORE_CPU = 1.1
_RULE = 2  # version of the rule of the choice; earlier choices are measured again
BUDGET_S = 0.5
SAME_TIME = 1.05  # precisions within this factor count as equally fast
_MOST_EXACT_FIRST: tuple[Precision, ...] = (
    "f32", "f32+onnx", "f16", "bf16", "int8+bf16", "int8", "int8+onnx",
)  # fmt: skip
_MIN_ROUNDS = 3
_HOPELESS = 1.5  # factor of time from which a candidate leaves the trial
_OPEN_AT_ONCE = 4

TrialSetting = tuple[Precision, int]


@dataclass(frozen=True, slots=True)
class Tried:
    """A model and the candidates of its trial.

    precisions  precisions on this machine
    open        function that compiles the model for a precision and a number of threads; it raises
                ModelUnreadable if the model lacks the precision
    size        (width, height) of the input
    weights     identifies the weights of all precisions
    device      configured device; see device_names.RULE
    open_on     function that compiles the model for a precision and another device than the CPU
    devices     device -> precisions to try
    """

    precisions: tuple[Precision, ...]
    open: Callable[[Precision, int], Runtime]
    size: tuple[int, int]
    weights: str
    device: str = CPU
    open_on: Callable[[Precision, str], Runtime] | None = None
    devices: Mapping[str, tuple[Precision, ...]] = field(default_factory=dict)


def of_shipped(name: str, device: str = CPU) -> Tried:
    """Return the trial of a shipped network, on 16:9 video.

    Raises ModelUnreadable, DeviceMissing.
    """
    precisions = precisions_of(name)
    sums = [shipped(name, precision).sha256[:16] for precision in precisions]
    return Tried(
        precisions,
        partial(compiled, name),
        NETWORKS[name].size or (416, 256),
        "+".join(dict.fromkeys(sums)),
        device,
        lambda precision, other: compiled(name, precision, 1, device=other),
        {other: precisions_on(other) for other in to_try(device, with_onnx=False)},
    )


def light(device: str = CPU) -> Tried:
    """Return the trial of the light detector. Raises ModelUnreadable, DeviceMissing."""
    return of_shipped(policy.load("light").parts[0][0], device)


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of a trial.

    ms      median milliseconds of an inference
    device  CPU, or a device that agrees with it
    note    reasons against other devices, for a message; "" if no other was configured
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
    """Return each precision with one thread, half the cores and all cores."""
    counts = sorted({1, max(1, cores // 2), max(1, cores)})
    return list(itertools.product(precisions, counts))


def choose(median_ms: Mapping[TrialSetting, float]) -> Choice:
    """Return the fastest setting, but with fewer threads if more cost a tenth more CPU time.

    All shipped precisions have the same accuracy (benchmarks/results/detectors.json), so the time
    decides. Of precisions with about the same time, the most exact one is chosen, so that noise
    does not decide. Raises ValueError without measurements.
    """
    best: Choice | None = None
    for threads in sorted({threads for _, threads in median_ms}):
        times = {
            precision: float(ms) for (precision, count), ms in median_ms.items() if count == threads
        }
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
    """Return the median milliseconds of each run.

    The runs take turns, so that a change of load affects all alike. There are at least three
    rounds, then more until `budget_s` seconds are over; a round before them is not counted. After
    three rounds, candidates leave that are clearly slower than another with as many threads.
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
            racing = {each: run for each, run in runs.items() if not _is_hopeless(each, taken)}
        rounds += 1
    return {candidate: statistics.median(ms) for candidate, ms in taken.items()}


def _is_hopeless(candidate: TrialSetting, taken: Mapping[TrialSetting, Sequence[float]]) -> bool:
    medians = [statistics.median(ms) for each, ms in taken.items() if each[1] == candidate[1]]
    return min(taken[candidate]) > min(medians) * _HOPELESS


def run(
    cache: Path | None = None,
    budget_s: float = BUDGET_S,
    cores: int | None = None,
    tried: Tried | None = None,
) -> Choice:
    """Return the choice for a model on this machine, from the cache or by a trial.

    cache     file with choices by CPU, cores, OpenVINO version and weights, and by devices and
              drivers if another device is configured; None: always measure
    budget_s  seconds of the measurement; compiling the candidates takes about 1 s more
    tried     the candidates; None: those of the light detector

    Raises ModelUnreadable, WarmUpFailed, and DeviceRefused if the configured device is unusable.
    """
    cores = cores or cores_available()
    tried = tried or light()
    key = machine_key(cores, tried)
    if cache is None:
        return _measured(tried, cores, budget_s)
    known = read_cache(cache)
    if key in known:
        return known[key]
    with locked(cache.parent):
        known = read_cache(cache)
        if key not in known:
            known[key] = _measured(tried, cores, budget_s)
            with suppress(OSError):  # then the next process measures again
                write_cache(cache, known)
        return known[key]


def _measured(tried: Tried, cores: int, budget_s: float) -> Choice:
    if tried.device == CPU:
        return _on_cpu(tried, cores, budget_s)
    chosen: list[Choice] = []
    refused: list[DeviceRefused] = []
    if tried.devices:
        expected = _expected(tried, cores)
        for device in tried.devices:
            try:
                chosen.append(_on_device(tried, device, expected, budget_s))
            except DeviceRefused as error:
                refused.append(error)
    if tried.device != AUTO:
        if refused:
            raise refused[0]
        return chosen[0]
    chosen.append(_on_cpu(tried, cores, budget_s))
    best = min(chosen, key=lambda choice: choice.ms)
    notes = [f"{each.device}: {each.ms:.1f} ms a picture" for each in chosen if each is not best]
    notes += [f"{error.device}: {error.reason}" for error in refused]
    if not tried.devices:
        notes = ["this machine has no other device"]
    return replace(best, note="; ".join(notes))


# -- Devices other than the CPU, compared with the CPU.


# Largest difference, as a share of an output's standard deviation on the CPU. For the light
# network, bf16 differs by .03; one of its layers with weights a tenth too small by .01 to .11, the
# median of nine layers being .05; INT8, which has other weights, by .38.
MAX_DIFFERENCE = 0.04
_PICTURES = 6


@dataclass(frozen=True, slots=True)
class _Expected:
    """Generated pictures, and the CPU's outputs for each."""

    pictures: tuple[ByteArray, ...]
    outputs: tuple[tuple[FloatArray, ...], ...]


def _expected(tried: Tried, cores: int) -> _Expected:
    network = tried.open(tried.precisions[0], cores)
    network.warm_up([tried.size])
    pictures = made_pictures(*tried.size)
    return _Expected(pictures, tuple(_outputs(network, picture) for picture in pictures))


def made_pictures(width: int, height: int) -> tuple[ByteArray, ...]:
    """Return the pictures for the comparison, uint8 (height, width, 3), always the same.

    They range from noise to smooth, so that all layers are active. They contain no objects, because
    the comparison is of numbers, not of boxes.
    """
    noise = np.random.default_rng(0)
    pictures = []
    for number in range(_PICTURES):
        cell = 4 << number
        coarse = noise.integers(0, 256, (-(-height // cell), -(-width // cell), 3), np.uint8)
        large = coarse.repeat(cell, axis=0).repeat(cell, axis=1)
        pictures.append(np.ascontiguousarray(large[:height, :width]))
    return tuple(pictures)


def difference(expected: Sequence[FloatArray], outputs: Sequence[FloatArray]) -> float:
    """Return the difference of outputs from the expected ones, for the output with the largest.

    It is the root mean square error as a share of the expected standard deviation; inf for another
    shape or for numbers that are not finite.
    """
    if [array.shape for array in expected] != [array.shape for array in outputs]:
        return math.inf
    largest = 0.0
    for right, output in zip(expected, outputs, strict=True):
        if not np.isfinite(output).all():
            return math.inf
        error = float(np.sqrt(np.mean(np.square(output - right, dtype=np.float64))))
        largest = max(largest, error / max(float(right.std()), 1e-6))
    return largest


def _on_device(tried: Tried, device: str, expected: _Expected, budget_s: float) -> Choice:
    """Return the fastest precision that agrees with the CPU. Raises DeviceRefused without one."""
    assert tried.open_on is not None
    runs: dict[TrialSetting, Callable[[], object]] = {}
    reason = "it computes in no precision that is known here"
    for precision in tried.devices[device]:
        try:
            network = tried.open_on(precision, device)
            network.warm_up([tried.size])
            largest = max(
                difference(right, _outputs(network, picture))
                for right, picture in zip(expected.outputs, expected.pictures, strict=True)
            )
        except (ModelError, RuntimeError) as error:  # OpenVINO raises the latter
            lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
            reason = f"it does not compute this network ({lines[-1][:200]})"
            continue
        if largest > MAX_DIFFERENCE:
            reason = (
                f"its outputs differ from the CPU's by {largest:.1%} in {precision}; at most "
                f"{MAX_DIFFERENCE:.0%} is allowed"
            )
            continue
        runs[precision, 1] = partial(_infer, network, expected.pictures[0])
    if not runs:
        raise DeviceRefused(device, reason)
    return replace(choose(measure(runs, budget_s)), device=device)


def _outputs(network: Runtime, picture: ByteArray) -> tuple[FloatArray, ...]:
    token = network.submit(picture)
    return network.read(token, lambda outputs: tuple(output.copy() for output in outputs))


def _on_cpu(tried: Tried, cores: int, budget_s: float) -> Choice:
    settings = candidates(tried.precisions, cores)
    # Compiling takes most of the time of a trial, so it runs on several threads.
    with ThreadPoolExecutor(min(cores, _OPEN_AT_ONCE)) as pool:
        networks = list(pool.map(partial(_opened, tried), settings))
    picture = np.full((tried.size[1], tried.size[0], 3), 114, np.uint8)
    runs: dict[TrialSetting, Callable[[], object]] = {}
    for setting, network in zip(settings, networks, strict=True):
        if network is not None:
            runs[setting] = partial(_infer, network, picture)
    if not runs:
        tried.open(tried.precisions[0], 1)  # raises the reason
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
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_key(cores: int, tried: Tried) -> str:
    """Return the key of a choice in the cache, with all facts that the choice depends on."""
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
    """Return the choices in a cache file; {} for a missing or damaged file."""
    try:
        return {
            str(key): Choice(**value)
            for key, value in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_cache(path: Path, choices: Mapping[str, Choice]) -> None:
    """Replace a cache file in one step, so that readers never see a part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: asdict(choice) for key, choice in choices.items()}, indent=1)
    new = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
