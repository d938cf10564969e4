"""A fleet on Ray in which processes, hosts, links and the head are lost at random, by a seed.

Each failure happens at least once in each run, several are under way at the same time, and each
heals after a random time.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support import footage
from tests.support.orphans import all_end
from tests.support.own_servers import PROGRAMS, needs
from tests.support.ray_hosts import HEAD, RayFleet, ray_fleet
from tests.support.runs import wait_until
from tests.support.stream_checker import Checker

pytestmark = pytest.mark.whole_run

pytest.importorskip("ray")

HOSTS = ("one", "two", "three")
CORES, COST = 0.3, 0.05  # six slots fit on a host of two cores, and six sources into a slot
FPS = 2
CLIP_S = 3600  # longer than any run
FRESH = 5  # further results of each source that show that it is served
PAUSE_S = (1.0, 8.0)  # between two failures
AWAY_S = (3.0, 20.0)  # until a failure heals: Ray takes a host for dead after 13 s
LOOK_S = 0.5  # of the checker, at all sources
PATIENT_S = 900.0  # twelve slots start on a busy machine
LONG_S = 300.0


@dataclass(frozen=True)
class FleetSize:
    """How many slots and sources a fleet has."""

    n_slots: int
    n_sources: int

    @property
    def slots(self) -> list[str]:
        """The names of its slots."""
        return [f"slot{number}" for number in range(self.n_slots)]

    @property
    def sources(self) -> list[str]:
        """The names of its sources."""
        return [f"source{number}" for number in range(self.n_sources)]


WHOLE = FleetSize(12, 60)
SMALL = FleetSize(6, 18)  # of the test that runs each time: a slot costs some seconds of a core


class Losses:
    """Breaks the fleet in a random order, and repairs it after random times."""

    def __init__(self, at: RayFleet, seed: int) -> None:
        self._at = at
        self._chance = random.Random(seed)
        self._repairs: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._away: set[str] = set()
        self._kinds: list[str] = []
        self._pause = threading.Event()
        self.counts = dict.fromkeys(self._breaks, 0)

    def break_once(self) -> None:
        """Do the next of the shuffled failures, then wait a random time and repair what is due."""
        if not self._kinds:
            self._kinds = [*self._breaks]
            self._chance.shuffle(self._kinds)
        kind = self._kinds.pop()
        print(f"{time.monotonic():.0f} s: {kind}; away: {sorted(self._away)}", flush=True)
        self._breaks[kind](self)
        self.counts[kind] += 1
        self._pause.wait(self._chance.uniform(*PAUSE_S))
        while self._repairs and self._repairs[0][0] <= time.monotonic():
            self._repair()

    def repair_all(self) -> None:
        """Repair all at once."""
        while self._repairs:
            self._repair()

    def _repair(self) -> None:
        _, _, repair = heapq.heappop(self._repairs)
        repair()

    def _later(self, name: str, repair: Callable[[], None]) -> None:
        """Repair a host or the head after a random time; until then it is left alone."""

        def repaired() -> None:
            repair()
            self._away.discard(name)

        self._away.add(name)
        due_s = time.monotonic() + self._chance.uniform(*AWAY_S)
        heapq.heappush(self._repairs, (due_s, next(self._order), repaired))

    def _host(self) -> str:
        """A host that is not away, after repairs if all are."""
        while not (here := [name for name in self._at.names if name not in self._away]):
            self._repair()
        return self._chance.choice(here)

    # -- the failures

    def _kill_process(self) -> None:
        slots = [(slot, pid) for name in HOSTS for slot, pid in self._at.slots(name).items()]
        if not slots:
            slots = wait_until("a slot is up", self._slots_up, PATIENT_S)
        _, pid = self._chance.choice(sorted(slots))
        with all_end(self._at.below(pid)):
            os.kill(pid, signal.SIGKILL)

    def _slots_up(self) -> list[tuple[str, int]]:
        return [each for name in HOSTS for each in self._at.slots(name).items()]

    def _kill_raylet(self) -> None:
        name = self._host()
        raylet = wait_until("the host has joined", lambda: self._at.raylets(name), PATIENT_S)[0]
        with all_end(self._at.below(*self._at.slots(name).values())):
            os.kill(raylet, signal.SIGKILL)

    def _kill_host(self) -> None:
        name = self._host()
        with all_end(self._at.hosts[name].pids()):
            self._at.hosts[name].kill()
        self._later(name, lambda: self._at.start_host(name))

    def _cut_from_head(self) -> None:
        self._cut(lambda name: self._at.hosts[name].cut_from(self._at.address))

    def _cut_from_store(self) -> None:
        self._cut(lambda name: self._at.hosts[name].cut_from(self._at.store_at(name)))

    def _cut_from_both(self) -> None:
        self._cut(lambda name: self._at.hosts[name].cut())

    def _cut(self, cut: Callable[[str], None]) -> None:
        name = self._host()
        cut(name)
        self._later(name, self._at.hosts[name].heal)

    def _kill_head(self) -> None:
        while HEAD in self._away:
            self._repair()
        self._at.hosts[HEAD].kill()
        self._later(HEAD, self._at.begin_head)

    def _kill_head_and_host(self) -> None:
        self._kill_head()
        self._kill_host()

    _breaks: Final = {
        "process killed": _kill_process,
        "raylet killed": _kill_raylet,
        "host killed": _kill_host,
        "host cut from the head": _cut_from_head,
        "host cut from the store": _cut_from_store,
        "host cut from both": _cut_from_both,
        "head killed": _kill_head,
        "head and host killed": _kill_head_and_host,
    }


@contextmanager
def losing_fleet(folder: Path, program: str, size: FleetSize) -> Iterator[RayFleet]:
    """Three hosts with all slots, which serve all sources; each is published without a gap.

    At the end all slots are drained, and the checker of the streams gives its verdict.
    """
    with ray_fleet(folder, program, HOSTS) as at:
        print("hosts:", at.kind, flush=True)
        clip = folder / "clip.mkv"
        footage.write_scene(clip, footage.steady(FPS * CLIP_S, FPS))
        source = {"url": str(clip), "pace": "realtime", "cost": COST}
        at.apply(dict.fromkeys(size.slots, CORES), dict.fromkeys(size.sources, source))
        at.start_head()
        for name in HOSTS:
            at.start_host(name)
        checker = Checker(at.url, *size.sources, every_s=LOOK_S)
        try:
            yield at
            at.does("drain", *size.slots)
            wait_until("no slot has them", lambda: not any(map(at.runs, size.sources)), PATIENT_S)
        except BaseException:
            checker.stop()
            raise
        checker.close()
        for name in size.sources:
            positions = [(each["epoch"], each["seq"]) for each in at.reader.results(name)]
            assert positions == [(1, seq) for seq in range(len(positions))]


def all_serve(at: RayFleet, size: FleetSize) -> None:
    """All slots serve all of their sources, each of which gets further results."""
    wait_until("all slots serve", lambda: _served(at, size) == size.n_sources, PATIENT_S)
    before = {name: at.published(name) for name in size.sources}
    wait_until(
        "all sources have further results",
        lambda: all(at.published(name) >= before[name] + FRESH for name in size.sources),
        PATIENT_S,
    )
    assert at.status()["unserved"] == {}


def _served(at: RayFleet, size: FleetSize) -> int:
    """How many sources the slots serve, as far as all give a sign of life and refuse none."""
    signs = [at.sign(slot) for slot in size.slots]
    if not all(signs):
        return 0
    read = [json.loads(sign) for sign in signs]
    return sum(sign["serves"] for sign in read if not sign["refused"])


def seeds() -> list[object]:
    """Each failure once in a small fleet; 20 seeds for five minutes each as long tests."""
    long = [pytest.param(WHOLE, seed, LONG_S, marks=pytest.mark.long) for seed in range(20)]
    return [pytest.param(SMALL, 0, 0.0, id="each once"), *long]


@pytest.mark.parametrize("program", [needs(PROGRAMS[0])])
@pytest.mark.parametrize(("size", "seed", "lasts_s"), seeds())
def test_a_fleet_that_is_disturbed_at_random_publishes_each_frame_once(
    tmp_path: Path, program: str, size: FleetSize, seed: int, lasts_s: float
) -> None:
    """Ids have no gap, no source has two owners, and no process outlives its slot."""
    with losing_fleet(tmp_path, program, size) as at:
        all_serve(at, size)
        losses = Losses(at, seed)
        ends_s = time.monotonic() + lasts_s
        while 0 in losses.counts.values() or time.monotonic() < ends_s:
            losses.break_once()
        losses.repair_all()
        all_serve(at, size)
        print(losses.counts, flush=True)
