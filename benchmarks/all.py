"""All benchmarks in turn, and one table of what was wanted and what was measured.

    python -m benchmarks.all [--quick] [--only NAME ...] [--resume] [--data FOLDER] [--peers PYTHON]

Each runs in a process of its own, with a time-out, and alone, because another one would change its
figures. Whole results are kept in benchmarks/results. `--quick` keeps none: it checks that each
has every key of the kept one, and runs two benchmarks at once for each core, at most four.
`--resume` measures only those that have no result of this code. Ctrl-C ends those that run and
shows the results so far. The exit code is 0 if all ran, also with missed targets, and 1 if one
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.harness.code_behind import digest_of
from benchmarks.harness.report import DISTURBED, LACKS, RESULTS, Bar, Benchmark, BenchmarkResult

# The figures of README.md first, then those that users ask for most: a campaign may be cut short.
_FIRST: Final = ("live", "soak", "gate", "first_contact", "truth", "floor", "idle", "fleet")


def _names() -> tuple[str, ...]:
    names = sorted(
        path.parent.name if path.stem == "__init__" else path.stem
        for path in (*RESULTS.parent.glob("*.py"), *RESULTS.parent.glob("*/__init__.py"))
        if "\nBENCHMARK = " in path.read_text(encoding="utf-8")
    )
    return (*_FIRST, *[name for name in names if name not in _FIRST])


NAMES: Final = _names()
_DISTURBED: Final = "not kept: other work ran beside it"
QUICK_S, WHOLE_S = 600.0, 6 * 3600.0
_END_S = 60.0
_AT_ONCE: Final = 4  # most quick ones at a time: some need 1 GB of memory


@dataclass(frozen=True)
class Ended:
    """How one benchmark ended.

    result  None if it printed none
    fault   empty without one
    """

    name: str
    result: BenchmarkResult | None
    fault: str


def declared(name: str) -> Benchmark:
    """Return the declaration of a benchmark."""
    benchmark: Benchmark = import_module(f"benchmarks.{name}").BENCHMARK
    return benchmark


def kept(name: str) -> BenchmarkResult | None:
    """Return the result in benchmarks/results; None without one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def is_current(name: str) -> bool:
    """Return whether the kept result is of the code as it is now."""
    result = kept(name)
    if result is None:
        return False
    is_same: bool = result["conditions"].get("code") == digest_of(
        f"benchmarks.{name.partition('-')[0]}"
    )
    return is_same


class Running:
    """A benchmark in a process of its own, with what it has printed so far.

    cpu_s  CPU time of it and of all that it started, once it has ended
    """

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.name, self._is_quick = name, given.quick
        self.began, self.cpu_s = time.monotonic(), 0.0
        self._printed = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (`end` closes it)
        self._process = subprocess.Popen(
            _command(name, given),
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            start_new_session=True,
        )

    def is_over(self) -> bool:
        """Return whether it has ended or took too long."""
        before_s = _cpu_of_children_s()
        has_ended = self._process.poll() is not None
        if has_ended:
            self.cpu_s = _cpu_of_children_s() - before_s
        return has_ended or self._is_late()

    def _is_late(self) -> bool:
        limit = WHOLE_S
        if self._is_quick:
            limit = QUICK_S
        return time.monotonic() > self.began + limit

    def end(self) -> Ended:
        """Return its result or its fault, once it is over; end one that took too long."""
        is_late = self._process.poll() is None
        if is_late:
            self.stop()
        self._printed.seek(0)
        lines = self._printed.read().splitlines()
        self._printed.close()
        code = self._process.returncode
        if not is_late and code == LACKS:
            return Ended(self.name, None, f"not measured: {lines[-1] if lines else ''}")
        if not is_late and code == DISTURBED:
            return Ended(self.name, None, _DISTURBED)
        if is_late or code != 0:
            print(*lines[-25:], sep="\n")
            why = "took too long" if is_late else f"ended with {code}"
            return Ended(self.name, None, f"FAILED: {why}")
        return _checked(self.name, lines, self._is_quick)

    def stop(self) -> None:
        """End it and all that it started."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _command(name: str, given: argparse.Namespace) -> list[str]:
    words = [sys.executable, "-u", "-m", f"benchmarks.{name}"]
    words += ["--quick"] if given.quick else ["--write"]
    words += [] if given.data is None else ["--data", str(given.data)]
    if given.peers and "peers" in declared(name).options:
        words += ["--peers", given.peers]
    return words


def _checked(name: str, lines: Sequence[str], is_quick: bool) -> Ended:
    """Return the result in the last line, or what is wrong with it."""
    try:
        result: BenchmarkResult = json.loads(lines[-1])
    except (IndexError, ValueError):
        return Ended(name, None, "FAILED: its last line is no result")
    whole = kept(name) if is_quick else None
    faults = [] if whole is None else declared(name).differences(whole, result)
    return Ended(name, result, f"FAILED: {'; '.join(faults)}" if faults else "")


def measured(
    given: argparse.Namespace, names: Sequence[str], at_once: int
) -> Generator[Ended, None, None]:
    """Run the benchmarks of these names, at most `at_once` at a time; yield each when it ends."""
    waiting, running, repeated = deque(names), list[Running](), set[str]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(Running(waiting.popleft(), given))
                print(f"{running[-1].name}: runs", flush=True)
            over = [one for one in running if one.is_over()]
            for one in over:
                running.remove(one)
                ended = one.end()
                took = time.monotonic() - one.began
                spent = f"{took:.0f} s, {one.cpu_s:.0f} s of CPU time"
                print(f"{one.name}: {spent}, {ended.fault or 'ok'}", flush=True)
                if ended.fault == _DISTURBED and one.name not in repeated:
                    repeated.add(one.name)
                    waiting.append(one.name)
                else:
                    yield ended
            if not over:
                time.sleep(0.05)
    finally:
        for one in running:
            one.stop()


def table(ended: Iterable[Ended]) -> Table:
    """Return the table of all figures: wanted, measured, held or missed."""
    shown = Table("benchmark", "figure", "wanted", "measured", "verdict")
    for one in ended:
        if one.fault:
            shown.add_row(one.name, "", "", "", one.fault)
        for bar in bars_of(one):
            measured = "-" if bar.measured is None else f"{bar.measured:.4g}"
            wanted = f"{bar.sign} {bar.wanted:.4g}"
            shown.add_row(one.name, bar.what, wanted, measured, bar.verdict)
    return shown


def bars_of(one: Ended) -> list[Bar]:
    """Return its targets with the measured figures; none without a result."""
    return [] if one.result is None else list(declared(one.name).bars(one.result))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the least work, nothing is kept")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=NAMES)
    parser.add_argument("--resume", action="store_true", help="only what has no current result")
    data = os.environ.get("FRAMEGATE_DATA")
    parser.add_argument("--data", type=Path, default=data and Path(data))
    parser.add_argument("--peers", help="Python with Roboflow's inference installed")
    given = parser.parse_args()
    found = dict[str, Ended]()
    names = list(given.only)
    if given.resume:
        current = [name for name in names if is_current(name)]
        found |= {name: Ended(name, kept(name), "") for name in current}
        names = [name for name in names if name not in found]
    at_once = 1
    if given.quick:
        at_once = min(_AT_ONCE, 2 * len(os.sched_getaffinity(0)))  # much of their time is waits
    code = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.closing(measured(given, names, at_once)) as results:
            for one in results:
                found[one.name] = one
    except KeyboardInterrupt:
        code = 130
    lacking = {name: Ended(name, None, "not finished") for name in given.only if name not in found}
    found |= lacking
    ended = [found[name] for name in given.only]
    Console(width=160).print(table(ended))
    failed = [one for one in ended if one.fault.startswith("FAILED")]
    for one in failed:  # the last lines: of a long output, those are what one reads
        print(f"{one.name}: {one.fault}", file=sys.stderr)
    return code or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
