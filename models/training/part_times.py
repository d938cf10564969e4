"""What the parts of a student cost on this CPU, measured where they stand: in whole networks.

A layer that is timed alone pays for entering and leaving OpenVINO's layouts, and its neighbours are
not fused into it. So some tens of architectures that together have every part in question are run,
each operation's time is read from OpenVINO's own counters, and given to the part it belongs to. A
network's time is then the sum of its parts' with two numbers fitted over the networks run: what a
run costs beside its operations, and what a counted millisecond is worth (counting costs time too).

Networks take turns in one thread, and of each figure the least is kept: a machine that is busy
makes times longer, never shorter. One network runs in every group that takes turns, and all times
are as if the machine had been for all groups as it was when that one ran fastest.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov

from framegate.models.detector.network import Precision, config, core, cpu_model
from framegate.models.training.export_ir import export
from framegate.models.training.student import STRIDES, Architecture, Student

ROUNDS: Final = 60
_AT_ONCE: Final = 12  # networks that are compiled side by side and take turns
_PATH: Final = re.compile(r"__module\.(?:net\.)?([\w.]+)/")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a network.

    path  of its module; "" for what belongs to none (input, pyramid)
    key   names all that decides its time, but CPU and precision
    """

    path: str
    key: str


def parts(architecture: Architecture, size: tuple[int, int]) -> list[Part]:
    """Of which parts its network consists; the input is `size` (width, height)."""
    n_classes, pyramid = architecture.n_classes, architecture.pyramid
    width, height = size[0] // 4, size[1] // 4
    n = architecture.stages[0].width
    stem = architecture.stem
    found = [
        Part("", f"rest {stem} {pyramid} {width}x{height}"),
        Part(f"stems.{stem}", f"{stem} {n} {width}x{height}"),
    ]
    for i, (stage, stride) in enumerate(zip(architecture.stages, STRIDES, strict=True)):
        width, height = width // stride, height // stride
        at = f"{width}x{height}"
        found.append(Part(f"stages.{i}.entry", f"entry {n}>{stage.width} /{stride} {at}"))
        for place, spec in enumerate(stage.blocks):
            if spec is not None:
                key = f"{spec} {stage.width} {at}"
                found.append(Part(f"stages.{i}.blocks.{place}_{spec}", key))
        found.append(Part(f"stages.{i}", f"exit {stage.width} {at}"))
        n = 2 * stage.width
        if i:
            head = architecture.head
            found += [
                Part(f"laterals.{i - 1}", f"lateral {n}>{pyramid} {at}"),
                Part(f"heads.{i - 1}.blocks.{head}", f"{head} {pyramid} {at} head"),
                Part(f"heads.{i - 1}", f"scores {pyramid}>{n_classes} {at}"),
            ]
    return found


@dataclass(frozen=True, slots=True)
class PartTimes:
    """Milliseconds by part on one CPU at one precision, one thread.

    ms     by Part.key
    fixed  of a run beside its parts
    scale  of the parts' sum
    """

    size: tuple[int, int]
    ms: Mapping[str, float]
    fixed: float
    scale: float

    def of(self, architecture: Architecture) -> float:
        """Milliseconds of a whole network, foretold. KeyError names a part that was not met."""
        told = sum(self.ms[part.key] for part in parts(architecture, self.size))
        return self.fixed + self.scale * told


def measured(
    architectures: Sequence[Architecture],
    size: tuple[int, int],
    precision: Precision,
    rounds: int = ROUNDS,
    cache: Path | None = None,
) -> PartTimes:
    """Times of all parts that these architectures have, for inputs of `size` (width, height).

    The file `cache` holds them by CPU, OpenVINO version, precision and size: what is there with all
    of these parts is not measured again. Weights do not matter, so networks have random ones.
    """
    wanted = {part.key for one in architectures for part in parts(one, size)}
    key = " | ".join((cpu_model(), ov.__version__, precision, f"{size[0]}x{size[1]}"))
    known = _read(cache)
    if key in known and wanted <= known[key]["ms"].keys():
        return PartTimes(size, **known[key])
    groups: list[list[_Run]] = []
    for first in range(1, len(architectures) + 1, _AT_ONCE):
        some = architectures[:1], architectures[first : first + _AT_ONCE]
        groups.append([_Run(one, size, precision) for one in itertools.chain(*some)])
        _take_turns(groups[-1], rounds)
        for run in groups[-1]:
            run.let_go()
    fastest = min(group[0].ms for group in groups)
    found: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for run in group:
            for key_of_part, taken in run.parts.items():
                found[key_of_part].append(taken * fastest / group[0].ms)
    ms = {name: min(found[name]) for name in sorted(wanted)}
    whole = np.array(
        [fastest, *(run.ms * fastest / group[0].ms for group in groups for run in group[1:])]
    )
    told = np.array([sum(ms[part.key] for part in parts(one, size)) for one in architectures])
    scale, fixed = np.polyfit(told, whole, 1, w=1 / whole) if len(whole) > 2 else (1.0, 0.0)
    times = PartTimes(size, ms, float(fixed), float(scale))
    if cache is not None:
        known[key] = {"ms": times.ms, "fixed": times.fixed, "scale": times.scale}
        with suppress(OSError):  # then the next one measures again
            cache.parent.mkdir(parents=True, exist_ok=True)
            new = cache.with_name(f"{cache.name}.new")
            new.write_text(json.dumps(known, indent=1))
            new.replace(cache)
    return times


def network_ms(
    architectures: Sequence[Architecture],
    size: tuple[int, int],
    precision: Precision,
    rounds: int = ROUNDS,
) -> list[float]:
    """Milliseconds of whole networks with nothing counted, in turns, one thread."""
    runs = [_Run(one, size, precision, counting=False) for one in architectures]
    _take_turns(runs, rounds)
    return [run.ms for run in runs]


class _Run:
    """A compiled network, and what its runs took."""

    def __init__(
        self,
        architecture: Architecture,
        size: tuple[int, int],
        precision: Precision,
        counting: bool = True,
    ) -> None:
        model = export(Student(architecture), size)
        options = config(precision, 1) | ({"PERF_COUNT": True} if counting else {})
        self._request: Any = core().compile_model(model, "CPU", options).create_infer_request()
        noise = np.random.default_rng(0).integers(0, 256, (1, size[1], size[0], 3), np.uint8)
        self._request.set_input_tensor(ov.Tensor(noise))
        self._counting, self._parts = counting, parts(architecture, size)
        self._taken: list[float] = []
        self._counts: dict[str, list[float]] = defaultdict(list)
        self._request.infer()

    def once(self) -> None:
        """Run it and note the time."""
        start = time.process_time()
        self._request.infer()
        self._taken.append((time.process_time() - start) * 1e3)
        if self._counting:
            for node in self._request.get_profiling_info():
                self._counts[node.node_name].append(node.real_time.total_seconds() * 1e3)

    @property
    def ms(self) -> float:
        """Milliseconds of a run, CPU time."""
        return min(self._taken)

    @property
    def parts(self) -> dict[str, float]:
        """Milliseconds by Part.key; of several parts with one key their mean."""
        found = dict.fromkeys((part.key for part in self._parts), 0.0)
        n = Counter(part.key for part in self._parts)
        longest_first = sorted(self._parts, key=lambda part: -len(part.path))
        for node, taken in self._counts.items():
            path = next(iter(_PATH.findall(node)), "")
            owner = next(
                p for p in longest_first if not p.path or f"{path}.".startswith(p.path + ".")
            )
            found[owner.key] += min(taken) / n[owner.key]
        return found

    def let_go(self) -> None:
        """Frees the network; the times stay."""
        self._request = None


def _take_turns(runs: Sequence[_Run], rounds: int) -> None:
    """One run of each, and again, another one first from round to round."""
    for number in range(rounds):
        for k in range(len(runs)):
            runs[(k + number) % len(runs)].once()


def _read(cache: Path | None) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or makes no sense."""
    if cache is None:
        return {}
    try:
        known = json.loads(cache.read_text())
        names = ("ms", "fixed", "scale")
        return {key: {name: one[name] for name in names} for key, one in known.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
