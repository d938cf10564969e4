"""How a benchmark makes its figures, says what they hold for, and tells them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def conditions(packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """Machine, kernel and versions, and whatever else decides the figures (`more`)."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "load_average": round(os.getloadavg()[0], 2),
        **more,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values do not exceed. ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def median_of_ratios(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of ours / theirs: both of a pair met the same state of the machine."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def tell(name: str, result: dict[str, Any], write: bool) -> None:
    """Print the result as the last line; with `write` keep it in benchmarks/results, too."""
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result), flush=True)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
