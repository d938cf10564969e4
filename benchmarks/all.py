"""All benchmarks in turn, and one table of what was wanted and what was measured.

    python -m benchmarks.all [--quick] [--only NAME ...] [--resume] [--data FOLDER] [--peers PYTHON]

Each in a process of its own, with a time-out. Whole results are kept in benchmarks/results; those
of `--quick` nowhere: it checks that each has every key of the kept one. `--resume` goes on with
those that have no result of this code. Ctrl-C ends the one that runs and tells
what there is. The exit code is 0 where all ran, whatever they held; 1 where one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.harness.code_behind import digest_of
from benchmarks.harness.report import LACKS, RESULTS, Bar, Benchmark, BenchmarkResult

NAMES: Final = tuple(
    sorted(
        path.parent.name if path.stem == "__init__" else path.stem
        for path in (*RESULTS.parent.glob("*.py"), *RESULTS.parent.glob("*/__init__.py"))
        if "\nBENCHMARK = " in path.read_text(encoding="utf-8")
    )
)
QUICK_S, WHOLE_S = 600.0, 6 * 3600.0
_END_S = 60.0


@dataclass(frozen=True)
class Ended:
    """How one benchmark ended. result: None where it told none; fault: empty where all is well."""

    name: str
    result: BenchmarkResult | None
    fault: str


def declared(name: str) -> Benchmark:
    """What the module says of itself."""
    benchmark: Benchmark = import_module(f"benchmarks.{name}").BENCHMARK
    return benchmark


def kept(name: str) -> BenchmarkResult | None:
    """The result that is in benchmarks/results; None: there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def is_current(name: str) -> bool:
    """Return whether the kept result is of the code as it is now."""
    result = kept(name)
    told: dict[str, Any] = {} if result is None else result["conditions"]
    return told.get("code") == digest_of(f"benchmarks.{name.partition('-')[0]}")


def measure(name: str, given: argparse.Namespace) -> Ended:
    """Run one, to its end or its time-out."""
    words = [sys.executable, "-u", "-m", f"benchmarks.{name}"]
    words += ["--quick"] if given.quick else ["--write"]
    words += [] if given.data is None else ["--data", str(given.data)]
    if given.peers and "peers" in declared(name).options:
        words += ["--peers", given.peers]
    with tempfile.TemporaryFile("w+") as said:
        code = _wait(name, words, said, QUICK_S if given.quick else WHOLE_S)
        said.seek(0)
        lines = said.read().splitlines()
    if code == LACKS:
        return Ended(name, None, f"not measured: {lines[-1] if lines else ''}")
    if code != 0:
        print(*lines[-25:], sep="\n")
        why = "took too long" if code is None else f"ended with {code}"
        return Ended(name, None, f"FAILED: {why}")
    try:
        result: BenchmarkResult = json.loads(lines[-1])
    except (IndexError, ValueError):
        return Ended(name, None, "FAILED: its last line is no result")
    whole = kept(name) if given.quick else None
    faults = [] if whole is None else declared(name).differences(whole, result)
    return Ended(name, result, f"FAILED: {'; '.join(faults)}" if faults else "")


def _wait(name: str, words: Sequence[str], said: Any, seconds: float) -> int | None:
    """Its exit code, None after a time-out; it and all that it started are gone then."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
    )
    try:
        print(f"{name}: runs", flush=True)
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def table(ended: Iterable[Ended]) -> Table:
    """Figure, wanted, measured, held or missed."""
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
    """What it is held to; nothing where it told no result."""
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
    ended: list[Ended] = []
    code = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for name in given.only:
            if given.resume and is_current(name):
                ended.append(Ended(name, kept(name), ""))
                continue
            ended.append(Ended(name, None, "interrupted"))
            began = time.monotonic()
            ended[-1] = measure(name, given)
            took = time.monotonic() - began
            print(f"{name}: {took:.0f} s, {ended[-1].fault or 'ok'}", flush=True)
    except KeyboardInterrupt:
        code = 130
    Console(width=160).print(table(ended))
    return code or int(any(one.fault.startswith("FAILED") for one in ended))


if __name__ == "__main__":
    sys.exit(main())
