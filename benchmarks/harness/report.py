"""The declaration of a benchmark: its options, what it needs, its targets; and its command line.

A module declares one `BENCHMARK` and ends with `sys.exit(BENCHMARK.main())`. `--quick` runs the
same code with the least work that prints every key of the whole result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

from benchmarks.harness.code_behind import commit_of, digest_of
from benchmarks.harness.other_work import OtherWork

RESULTS = Path(__file__).resolve().parents[1] / "results"
LACKS: Final = 77  # the exit code if something that it needs is missing
DISTURBED: Final = 75  # the exit code if other work ran beside it, so the result is not kept
# Most CPU time of other work, as a share of one core: in the mean, and in the worst minute, because
# a minute of a busy core is not seen in the mean of half an hour, but in a p99.
OTHER_CORES: Final = 0.05
OTHER_CORES_A_MINUTE: Final = 0.25
_EXTRAS: Final = {
    "bench": ("matplotlib", "pycocotools", "trackeval"),
    "train": ("nncf", "onnx", "onnxscript", "torch", "torchvision"),
}

BenchmarkResult = dict[str, Any]
T = TypeVar("T")
Need = Literal["clips", "bench", "train"]


class Bar(NamedTuple):
    """A figure with its target; measured: None if it could not be measured."""

    what: str
    measured: float | None
    sign: Literal["<=", ">="]
    wanted: float

    @property
    def held(self) -> bool | None:
        """Return whether the target is reached; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.sign == "<=" else self.measured >= self.wanted

    @property
    def verdict(self) -> str:
        """Return the same in words."""
        return {None: "not measured", True: "held", False: "MISSED"}[self.held]

    def __str__(self) -> str:
        shown = "-" if self.measured is None else f"{self.measured:.4g}"
        return f"{self.what}: {shown} ({self.sign} {self.wanted:g}): {self.verdict}"


class Option(NamedTuple):
    """The default of an option, its value with --quick (None: the same), and its help."""

    full: Any
    quick: Any = None
    explanation: str | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    name     of its module and of its file in results/
    measure  the options' values -> the whole result, with `conditions` (see below) in it
    options  by name: `rounds` is `--rounds`; a tuple takes several values
    needs    clips: a folder of test data; bench, train: those extras
    bars     a result -> its figures with targets
    keyed    names of mappings whose keys are data (clips, processes): a quick run has fewer
    absent   keys whose values depend on what happened: a quick run may lack them
    draws    the module whose `draw(result)` makes its figure in docs/
    kept     the options' values -> name of the result's file, where it is not always `name`
    """

    name: str
    measure: Callable[[argparse.Namespace], BenchmarkResult]
    options: Mapping[str, Option] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    bars: Callable[[BenchmarkResult], Iterable[Bar]] = lambda result: ()  # noqa: ARG005
    keyed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    draws: str = ""
    kept: Callable[[argparse.Namespace], str] | None = None

    def main(self, words: Sequence[str] | None = None) -> int:
        """Measure, print and, with --write, keep the result; return 0, LACKS or DISTURBED."""
        given = self.given(words)
        if lack := self.lacks(given.data):
            print(f"{self.name}: {lack}", file=sys.stderr)
            return LACKS
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda which, _: sys.exit(128 + which))
        module = f"benchmarks.{self.name}"
        origin = {
            "version": version("framegate"),
            "commit": commit_of(module),
            "date": datetime.now(UTC).date().isoformat(),
            "code": digest_of(module),
            "quick": given.quick,
            "options": self.unusual(given),
        }
        began = time.monotonic()
        with OtherWork() as others:
            result = self.measure(given)
        origin["took_s"] = round(time.monotonic() - began)
        origin["other_cores"] = round(others.cores, 3)
        origin["other_cores_worst_minute"] = round(others.worst_minute, 3)
        result["conditions"] |= origin
        print(*self.bars(result), sep="\n", flush=True)
        is_disturbed = others.cores > OTHER_CORES or others.worst_minute > OTHER_CORES_A_MINUTE
        if given.write and is_disturbed:
            print(
                f"{self.name}: not kept: other work used {others.cores:.2f} of a core in the mean "
                f"and {others.worst_minute:.2f} in the worst minute, at most {OTHER_CORES} and "
                f"{OTHER_CORES_A_MINUTE} are allowed; run it again on an idle machine",
                flush=True,
            )
        elif given.write:
            self._keep(result, given)
        print(json.dumps(result), flush=True)
        return DISTURBED if given.write and is_disturbed else 0

    def _keep(self, result: BenchmarkResult, given: argparse.Namespace) -> None:
        name = self.name if self.kept is None else self.kept(given)
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(result, indent=1)
        (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
        if self.draws:
            import_module(self.draws).draw(result)

    def given(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the options' values; the command line has priority over `--quick`."""
        documentation = sys.modules[self.measure.__module__].__doc__
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}",
            description=documentation,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        data = os.environ.get("FRAMEGATE_DATA")
        parser.add_argument("--data", type=Path, default=data and Path(data), help="test data")
        parser.add_argument("--quick", action="store_true", help="the least work for every key")
        parser.add_argument("--write", action="store_true", help="keep it in benchmarks/results")
        for name, option in self.options.items():
            _add(parser, name, option)
        given = parser.parse_args(words)
        if given.quick and given.write:
            parser.error("--quick measures nothing that is worth keeping: leave out --write")
        if given.quick:
            least = {name: one.quick for name, one in self.options.items() if one.quick is not None}
            parser.set_defaults(**least)
            given = parser.parse_args(words)
        return given

    def unusual(self, given: argparse.Namespace) -> list[str]:
        """Return the options that differ from their defaults, as on the command line.

        A path is of no use on another machine, so it is left out: `--peers PATH`.
        """
        found = []
        for name, option in self.options.items():
            value = getattr(given, name)
            values = list(value) if isinstance(value, list | tuple) else [value]
            usual = list(option.full) if isinstance(option.full, tuple) else [option.full]
            if values != usual:
                words = ["PATH" if "/" in str(each) else str(each) for each in values]
                found.append(" ".join([f"--{name.replace('_', '-')}", *words]))
        return found

    def lacks(self, data: Path | None) -> str:
        """Return what it needs and does not have; empty: nothing."""
        if "clips" in self.needs and (data is None or not (data / "clips").is_dir()):
            return "needs --data (or FRAMEGATE_DATA), a folder with clips/, which is missing"
        for extra, modules in _EXTRAS.items():
            absent = [name for name in modules if find_spec(name) is None]
            if extra in self.needs and absent:
                return f"needs the extra `{extra}`, of which {', '.join(absent)} is not installed"
        return ""

    def differences(self, whole: BenchmarkResult, quick: BenchmarkResult) -> list[str]:
        """Return the keys of the whole result that a quick one lacks or has in another type."""
        return list(_differences(self, whole, quick, ""))


def _add(parser: argparse.ArgumentParser, name: str, option: Option) -> None:
    one = option.full
    several: dict[str, Any] = {}
    if isinstance(one, tuple):
        several = {"nargs": "*"}
        one = one[0] if one else ""
    kind = str if one is None else type(one)
    flag = f"--{name.replace('_', '-')}"
    parser.add_argument(flag, type=kind, default=option.full, help=option.explanation, **several)


def _differences(about: Benchmark, whole: Any, quick: Any, where: str) -> Iterator[str]:
    if whole is None or quick is None:  # what could not be measured, then or now
        return
    if _kind(whole) != _kind(quick):
        yield f"{where or 'result'} is {_kind(quick)}, was {_kind(whole)}"
    elif isinstance(whole, list):
        if whole and quick:
            yield from _differences(about, _merged(whole), _merged(quick), f"{where}[]")
        elif any(isinstance(one, dict) for one in whole):  # else: none of these came
            yield f"{where} is empty"
    elif isinstance(whole, dict):
        if where.rpartition(".")[2] in about.keyed:
            if quick:
                rows = [*whole.values()], [*quick.values()]
                yield from _differences(about, *rows, f"{where}.*")
            return
        for key in whole:
            if key in about.absent:
                continue
            at = f"{where}.{key}" if where else key
            if key in quick:
                yield from _differences(about, whole[key], quick[key], at)
            else:
                yield f"{at} is missing"


def _kind(value: Any) -> str:
    kinds = ((bool, "yes or no"), (int | float, "a number"), (str, "text"), (dict, "a table"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "a list")


def _merged(values: Sequence[Any]) -> Any:
    """Return one value with the keys of all: rows of a table may lack some."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if all(isinstance(value, dict) for value in known):
        names = {key: None for value in known for key in value}
        return {key: _merged([value[key] for value in known if key in value]) for key in names}
    if all(isinstance(value, list) for value in known):
        return [each for value in known for each in value]
    return known[0]


def conditions(packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return machine, kernel and versions, and what else decides the figures (`more`)."""
    return {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "load_average": round(os.getloadavg()[0], 2),
        **more,
    }


def in_turn(sides: Sequence[T], number: int) -> list[T]:
    """Return the sides of a round in their order, another one first from round to round."""
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0..1) of the values do not exceed. ValueError without one."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = math.ceil(round(share * len(ordered), 6))  # .07 * 100 is a little more than 7
    return ordered[max(0, rank - 1)]


def median_of_ratios(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of ours / theirs, each pair measured in the same minutes."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def cpu() -> str:
    """Return the name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
