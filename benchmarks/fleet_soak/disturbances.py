"""All that happens to the fleet, at random times: what is broken is repaired a while later."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from benchmarks.fleet_soak.soak_fleet import AWAY, HOSTS, SoakFleet, worker_pids
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.fleet.change import drain_slots, move_sources

WEIGHTS: Final = {
    "slot killed": 3,
    "worker killed": 4,
    "host killed": 1,
    "link cut": 2,
    "store killed": 1,
    "source moved": 4,
    "slot drained": 2,
    "camera hung up": 4,
}
HOST_AWAY_S: Final = (2.0, 20.0)
CUT_S: Final = (2.0, 25.0)  # above 10 s the slots close their cameras
STORE_AWAY_S: Final = (0.2, 14.0)
DRAINED_S: Final = (5.0, 25.0)
_AGAIN_S: Final = 1.0


class Disturbances:
    """Break and repair parts of the fleet.

    counts  what happened, by name
    skipped changes of the plan that were not possible, as the store was away or a slot drained
    """

    def __init__(self, fleet: SoakFleet, chance: random.Random, every_s: float) -> None:
        """every_s: mean time between two"""
        self._fleet = fleet
        self._chance = chance
        self._every_s = every_s
        self._next_s = 0.0
        self._names: list[str] = list(WEIGHTS)  # at first each once
        chance.shuffle(self._names)
        self._order = itertools.count()
        self._repairs: list[tuple[float, int, Callable[[], None]]] = []
        self._hosts_down: set[str] = set()
        self._hosts_cut: set[str] = set()
        self._is_store_down = False
        self._drained: dict[str, int] = {}  # reasons why a slot is drained
        self.counts = dict.fromkeys(WEIGHTS, 0)
        self.skipped = 0

    @property
    def is_whole(self) -> bool:
        """Return whether store, links and hosts are up, and no slot is drained."""
        return not self._repairs

    def step(self, now_s: float) -> str:
        """Do what is due; return the name of what was broken, "" for nothing."""
        self._repair(now_s)
        if now_s < self._next_s:
            return ""
        self._next_s = now_s + self._every_s * self._chance.uniform(0.5, 1.5)
        if not self._names:
            self._names = [name for name, n in WEIGHTS.items() for _ in range(n)]
            self._chance.shuffle(self._names)
        name = self._names.pop()
        try:
            is_done = self._breaks[name](self, now_s)
        except (*AWAY, ConfigFaults):
            is_done = False
        self.counts[name] += is_done
        self.skipped += not is_done
        return name if is_done else f"{name}: not possible now"

    def end(self) -> None:
        """Repair all."""
        while self._repairs:
            self._repair(max(due for due, _, _ in self._repairs))

    def _repair(self, now_s: float) -> None:
        """Make the repairs that are due; again later those for which the store is away."""
        due = sorted(repair for repair in self._repairs if repair[0] <= now_s)
        self._repairs = [repair for repair in self._repairs if repair[0] > now_s]
        for _, _, repair in due:
            try:
                repair()
            except AWAY:
                self._later(now_s, _AGAIN_S, repair)

    def _later(self, now_s: float, after_s: float, repair: Callable[[], None]) -> None:
        self._repairs.append((now_s + after_s, next(self._order), repair))

    # -- what breaks: each returns whether it was possible.

    def _kill_slot(self, now_s: float) -> bool:  # noqa: ARG002 (its keeper repairs it)
        runs = [pid for name in HOSTS for pid in self._fleet.runs(name).values()]
        return self._kill(runs)

    def _kill_worker(self, now_s: float) -> bool:  # noqa: ARG002
        return self._kill([pid for host in self._fleet.hosts.values() for pid in worker_pids(host)])

    def _kill(self, pids: Sequence[int]) -> bool:
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        return True

    def _kill_host(self, now_s: float) -> bool:
        name = self._chance.choice(HOSTS)
        if name in self._hosts_down:
            return False
        self._fleet.hosts[name].kill()
        self._hosts_down.add(name)

        def start() -> None:
            self._fleet.start(name)
            self._hosts_down.discard(name)

        self._later(now_s, self._chance.uniform(*HOST_AWAY_S), start)
        self._drain_lost(name, now_s)
        return True

    def _cut_link(self, now_s: float) -> bool:
        name = self._chance.choice(HOSTS)
        if name in self._hosts_cut:
            return False
        self._fleet.hosts[name].cut()
        self._hosts_cut.add(name)

        def heal() -> None:
            self._fleet.hosts[name].heal()
            self._hosts_cut.discard(name)

        self._later(now_s, self._chance.uniform(*CUT_S), heal)
        self._drain_lost(name, now_s)
        return True

    def _drain_lost(self, name: str, now_s: float) -> None:
        """Drain all slots of a host half of the time; else its sources wait for it."""
        if self._chance.random() < 0.5:
            with suppress(*AWAY):
                self._drain(self._fleet.slots[name], now_s)

    def _kill_store(self, now_s: float) -> bool:
        process = self._fleet.store.process
        if self._is_store_down or process is None:
            return False
        process.kill()
        process.wait()
        self._is_store_down = True

        def start() -> None:
            self._fleet.store.start()
            self._is_store_down = False

        self._later(now_s, self._chance.uniform(*STORE_AWAY_S), start)
        return True

    def _move_source(self, now_s: float) -> bool:  # noqa: ARG002
        source = self._chance.choice(self._fleet.sources)
        slot = self._chance.choice(self._fleet.all_slots)
        if self._fleet.plan().sources[source].slot == slot:
            return False
        self._fleet.change(lambda plan: move_sources(plan, [source], slot))
        return True

    def _drain_slot(self, now_s: float) -> bool:
        self._drain([self._chance.choice(self._fleet.all_slots)], now_s)
        return True

    def _hang_up(self, now_s: float) -> bool:  # noqa: ARG002
        return self._fleet.cameras.hang_up(self._chance)

    def _drain(self, slots: Sequence[str], now_s: float) -> None:
        self._fleet.change(lambda plan: drain_slots(plan, slots, is_drained=True))
        for slot in slots:
            self._drained[slot] = self._drained.get(slot, 0) + 1

        def undrain() -> None:
            free = [slot for slot in slots if self._drained[slot] == 1]
            if free:
                self._fleet.change(lambda plan: drain_slots(plan, free, is_drained=False))
            for slot in slots:
                self._drained[slot] -= 1

        self._later(now_s, self._chance.uniform(*DRAINED_S), undrain)

    _breaks: Final = {
        "slot killed": _kill_slot,
        "worker killed": _kill_worker,
        "host killed": _kill_host,
        "link cut": _cut_link,
        "store killed": _kill_store,
        "source moved": _move_source,
        "slot drained": _drain_slot,
        "camera hung up": _hang_up,
    }
