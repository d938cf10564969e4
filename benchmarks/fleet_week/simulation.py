"""A fleet in simulated time: the plan and the claims are real, hosts and an engine are simulated.

The plan changes by the functions of `framegate fleet`. A slot decides by `next_step`, and claims
slots and sources in a real store by the functions of the protocol. Simulated are hosts, links, and
an engine that restarts a lost slot elsewhere. Each duration is uniform between two measured ones.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import redis

from benchmarks.fleet_week.parts import (
    AWAY_S,
    BATCHES,
    CHANGED,
    COSTS,
    CRASH_DAYS,
    CUT_DAYS,
    CUT_S,
    DAY_S,
    FINISH_S,
    FIRST_S,
    FULL,
    HEAD_DAYS,
    HEAD_S,
    HOST_CORES,
    LOST_S,
    NO_ROOM_S,
    OVERDUE_S,
    POWER_DAYS,
    POWER_S,
    RESTART_S,
    SLOT_CORES,
    SPARE,
    START_S,
    STORE_DAYS,
    STORE_S,
    UPGRADE_S,
    Instance,
    SimulatedHost,
    Week,
)
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import TakenOver
from framegate.pipeline.fleet.change import FleetContent, apply_content, drain_slots
from framegate.pipeline.fleet.fleet_store import ALIVE_S, FleetStore
from framegate.pipeline.fleet.plan import MILLI, FleetPlan, FleetSource
from framegate.pipeline.run.slot import HURRY_S, LOOK_S, NextStep, next_step
from framegate.pipeline.store.admin import StoreAdmin

ANSWER_S: Final = 60.0  # of the store, in real time


class Simulation:
    """A fleet with a clock of its own. The store must be empty."""

    def __init__(self, url: str, sources: int, days: float, seed: int) -> None:
        """Make hosts, slots and the first plan."""
        self.week = Week(days, sources)
        self._random = random.Random(seed)
        self._end_s = days * DAY_S
        self._admin = StoreAdmin(url)
        self._admin.prepare()
        self._fleet = FleetStore(url, ANSWER_S)
        self._client: Any = redis.Redis.from_url(url)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._names = itertools.count()
        self._owned: dict[tuple[str, int], str] = {}
        self._instances: dict[str, Instance] = {}  # the newest of each slot
        self._older: list[Instance] = []  # on hosts without a link, which the engine takes for dead
        self._has_slot: dict[str, Instance] = {}
        self._serving: dict[str, Instance] = {}  # the last that claimed a source
        self._silent_s: dict[str, float] = {}  # when a run that is away gave its last sign of life
        self._lost: dict[str, tuple[float, str]] = {}  # sources without results: since when, cause
        self._released_s: dict[str, float] = {}  # when a source that is handed over is released
        self._pending: list[str] = []  # slots without a host
        self._without_room: set[str] = set()  # those of them that are drained
        self._store_back_s = self._head_back_s = 0.0
        contents = {f"camera{next(self._names)}": self._source() for _ in range(sources)}
        cost = sum(source.cost for source in contents.values())
        slots = max(4, round(cost / SLOT_CORES / FULL))
        self._content = FleetContent(
            {f"slot{number}": SLOT_CORES for number in range(slots)}, contents
        )
        self._hosts = self._made_hosts(slots * SLOT_CORES * SPARE)
        self._plan = FleetPlan()
        self._by_slot: dict[str, dict[str, FleetSource]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._admin.close()
        self._fleet.close()
        self._client.close()

    def run(self) -> Week:
        """Simulate all days, and return what was seen."""
        self._change("apply", apply_content(self._plan, self._content))
        for slot in self._content.slots:
            self._place(slot)
        self._plan_failures()
        while self._events and self._events[0][0] <= self._end_s:
            self._now, _, act = heapq.heappop(self._events)
            act()
        self.week.unserved = sum(self._is_overdue(name) for name in self._plan.sources)
        return self.week

    # -- time

    def _at(self, time_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._count), act))

    def _after(self, spread: tuple[float, float], act: Callable[[], None]) -> None:
        self._at(self._now + self._random.uniform(*spread), act)

    def _repeat(self, mean_s: float, act: Callable[[], None]) -> None:
        """Let something happen at random, on average once in so many seconds."""

        def happen() -> None:
            act()
            self._repeat(mean_s, act)

        self._at(self._now + self._random.expovariate(1 / mean_s), happen)

    # -- what happens

    def _plan_failures(self) -> None:
        slots, hosts = len(self._content.slots), len(self._hosts)
        self._repeat(CRASH_DAYS * DAY_S / slots, self._crash)
        self._repeat(POWER_DAYS * DAY_S / hosts, self._lose_power)
        self._repeat(CUT_DAYS * DAY_S / hosts, self._cut_link)
        self._repeat(HEAD_DAYS * DAY_S, self._lose_head)
        self._repeat(STORE_DAYS * DAY_S, self._lose_store)
        for day in range(int(self.week.days)):
            self._at((day + 0.5) * DAY_S, self._change_sources)
        for batch in range(BATCHES):
            begin_s = (batch + 1) / (BATCHES + 2) * self._end_s
            names = [
                slot for number, slot in enumerate(self._content.slots) if number % BATCHES == batch
            ]
            self._at(begin_s, partial(self._upgrade, names))

    def _source(self) -> FleetSource:
        return FleetSource({"url_env": "CAMERA"}, self._random.choice(COSTS))

    def _made_hosts(self, cores: float) -> list[SimulatedHost]:
        made: list[SimulatedHost] = []
        while sum(host.cores for host in made) < cores:
            made.append(SimulatedHost(float(self._random.choice(HOST_CORES))))
        return made

    def _crash(self) -> None:
        slot = self._random.choice(list(self._content.slots))
        instance = self._instances.get(slot)
        if instance is None or not instance.is_up or not self._is_reached(instance):
            return
        self._end(instance, "process killed")
        self._at(self._engine_s(RESTART_S), lambda: self._restart(instance))

    def _restart(self, ended: Instance) -> None:
        """Start a killed slot again on its host, or elsewhere if that host is lost meanwhile."""
        host = self._hosts[ended.host]
        if self._instances[ended.slot] is not ended or ended.slot not in host.slots:
            return
        if host.is_reached:
            self._start(ended.slot, ended.host)
        else:
            host.slots.discard(ended.slot)
            self._at(self._engine_s(LOST_S), lambda: self._place(ended.slot))

    def _lose_power(self) -> None:
        host = self._random.choice(self._hosts)
        if not host.is_reached:
            return
        host.has_power = False
        for slot in sorted(host.slots):
            self._end(self._instances[slot], "host lost")
            self._at(self._engine_s(LOST_S), partial(self._place, slot))
        host.slots.clear()

        def restore() -> None:
            host.has_power = True
            self._place_pending()

        self._after(POWER_S, restore)

    def _cut_link(self) -> None:
        number = self._random.randrange(len(self._hosts))
        host = self._hosts[number]
        if not host.is_reached:
            return
        host.has_link = False
        heals_s = self._now + self._random.uniform(*CUT_S)
        for slot in sorted(host.slots):
            instance = self._instances[slot]
            self._silent_s[instance.run] = self._now
            self._interrupt(instance, instance.serves, "link cut")
            lost_s = self._engine_s(LOST_S)
            if lost_s < heals_s:
                self._at(lost_s, partial(self._replace, instance))
        self._at(heals_s, lambda: self._heal(number))

    def _replace(self, cut: Instance) -> None:
        """Start a slot elsewhere, as an engine does that takes a cut host for dead."""
        if self._instances[cut.slot] is cut and not cut.is_dead:
            self._hosts[cut.host].slots.discard(cut.slot)
            self._older.append(cut)
            self._place(cut.slot)

    def _heal(self, number: int) -> None:
        host = self._hosts[number]
        host.has_link = True
        here = [each for each in self._older if each.host == number]
        here += [self._instances[slot] for slot in sorted(host.slots)]
        self._older = [each for each in self._older if each.host != number]
        for instance in here:
            if instance.is_up:
                self._silent_s.pop(instance.run, None)
                self._look_soon(instance)
        self._place_pending()

    def _lose_head(self) -> None:
        self._head_back_s = max(
            self._head_back_s, self._now + self._random.uniform(*AWAY_S) + HEAD_S
        )

    def _lose_store(self) -> None:
        """Nothing is written until it is back; its time is not that of the fleet's recovery."""
        self._store_back_s = max(self._store_back_s, self._now + self._random.uniform(*STORE_S))

    def _change_sources(self) -> None:
        """Apply a fleet.toml in which some sources are gone and others are new."""
        names = list(self._content.sources)
        share = max(1, round(CHANGED * len(names)))
        gone = set(self._random.sample(names, share))
        kept = {name: each for name, each in self._content.sources.items() if name not in gone}
        added = {f"camera{next(self._names)}": self._source() for _ in range(share)}
        self._content = FleetContent(self._content.slots, {**kept, **added})
        self._change("apply", apply_content(self._plan, self._content))

    def _upgrade(self, names: list[str]) -> None:
        """Drain slots, and undrain them when their hosts have the new version."""
        self._drain("upgrade", names, is_drained=True)
        end_s = self._now + UPGRADE_S
        self._at(end_s, lambda: self._drain("upgrade", names, is_drained=False))

    # -- the engine

    def _engine_s(self, spread: tuple[float, float]) -> float:
        """Return when the engine has acted upon a failure of now."""
        return max(self._now + self._random.uniform(*spread), self._head_back_s)

    def _place(self, slot: str) -> None:
        """Start a slot on the host with most free cores; it waits if there is none."""
        free = [
            (host.cores - SLOT_CORES * len(host.slots), -number)
            for number, host in enumerate(self._hosts)
            if host.is_reached
        ]
        most, number = max(free, default=(0.0, 0))
        if most < SLOT_CORES:
            self._pending.append(slot)
            self._at(self._now + NO_ROOM_S, lambda: self._drain_pending(slot))
            return
        self.week.slot_moves += int(slot in self._instances)
        self._start(slot, -number)
        if slot in self._without_room:
            self._without_room.discard(slot)
            self._drain("no room", [slot], is_drained=False)

    def _place_pending(self) -> None:
        pending, self._pending = self._pending, []
        for slot in pending:
            self._place(slot)

    def _drain_pending(self, slot: str) -> None:
        """Let other slots have the sources of one that has no host, as a person would."""
        if slot in self._pending and slot not in self._without_room:
            self._without_room.add(slot)
            self._drain("no room", [slot], is_drained=True)

    def _start(self, slot: str, number: int) -> None:
        instance = Instance(f"{slot}@{number}", slot, number)
        self._instances[slot] = instance
        self._hosts[number].slots.add(slot)
        self._after(START_S, lambda: self._come_up(instance))

    def _come_up(self, instance: Instance) -> None:
        if not instance.is_dead:
            instance.is_up = True
            if self._is_reached(instance):
                self._silent_s.pop(instance.run, None)
            self._look(instance)

    def _end(self, instance: Instance, cause: str) -> None:
        instance.is_dead, instance.is_up = True, False
        self._silent_s[instance.run] = self._now
        self._interrupt(instance, instance.serves, cause)
        instance.serves = {}

    def _is_reached(self, instance: Instance) -> bool:
        return self._hosts[instance.host].is_reached

    # -- slots

    def _look_soon(self, instance: Instance) -> None:
        self._after((0.0, LOOK_S), lambda: self._look(instance))

    def _look(self, instance: Instance) -> None:
        """Do what a slot does at a look: claim the slot, release sources, and claim others."""
        if not instance.is_up or not self._is_reached(instance):
            return
        if self._now < self._store_back_s:
            begin_s = self._store_back_s + self._random.uniform(0.0, LOOK_S)
            self._at(begin_s, lambda: self._look(instance))
        elif self._claim_slot(instance):
            wanted = self._by_slot.get(instance.slot, {})
            self._release(instance, wanted)
            self._claim(instance, wanted)

    def _claim_slot(self, instance: Instance) -> bool:
        """Return whether this is the newest instance of its slot. If not, it has ended, or it has
        just started and waits until the sign of life of a newer one has expired.
        """
        newer = self._has_slot.get(instance.slot)
        silent_s = 0.0
        if newer is not None:
            silent_s = self._silence_s(newer.run)
        starts = not instance.has_slot and silent_s >= ALIVE_S
        with suppress(TakenOver):
            self._fleet.claim_slot(instance.slot, instance.run, instance.run, starts)
            is_revived = instance.has_slot and newer is not None and newer.run != instance.run
            self.week.revived += int(is_revived)
            instance.has_slot = True
            self._has_slot[instance.slot] = instance
            return True
        if not instance.has_slot and silent_s:
            self._at(self._now + ALIVE_S - silent_s, lambda: self._look(instance))
        else:
            self._end(instance, "superseded")
        return False

    def _release(self, instance: Instance, wanted: dict[str, FleetSource]) -> None:
        leaving = [
            name
            for name, since in instance.serves.items()
            if name not in wanted or wanted[name].since != since
        ]
        for name in leaving:
            del instance.serves[name]
            is_removed = name not in self._plan.sources
            if not is_removed:
                self._interrupt(instance, [name], "planned move")
            self._released_s[name] = self._now + self._random.uniform(*FINISH_S)
            release = partial(self._admin.release, name, instance.run, is_removed)
            self._at(self._released_s[name], release)

    def _claim(self, instance: Instance, wanted: dict[str, FleetSource]) -> None:
        missing = []
        for name in wanted:
            if self._serving.get(name) is not instance or name not in instance.serves:
                missing.append(name)
            elif name in self._lost:  # the link was healed before another host took it
                self._recover(name)
        if not missing:
            return
        owners = self._fleet.owners(missing)
        waits: dict[str, float] = {}
        claimed: list[str] = []
        for name in missing:
            owner, since = owners[name], wanted[name].since
            began_s = instance.waits.get(name, self._now)
            is_alive = bool(owner.run) and self._silence_s(owner.run) < ALIVE_S
            step = next_step(owner, instance.run, since, is_alive, self._now - began_s)
            if step is not NextStep.CLAIM:
                waits[name] = began_s
            elif self._claim_source(instance, name, since):
                claimed.append(name)
        self._check_owners(instance, claimed)
        instance.waits = waits
        if waits:
            look_s = min(self._free_s(owners[name].run, name) for name in waits)
            self._at(look_s + self._random.uniform(0.0, HURRY_S), lambda: self._look(instance))

    def _free_s(self, run: str, name: str) -> float:
        """Return when a source may be free: looks before that would change nothing."""
        expires_s = self._now + ALIVE_S - self._silence_s(run)
        released_s = self._released_s.get(name, 0.0)
        if released_s > self._now:
            return min(expires_s, released_s)
        return min(expires_s, self._now + LOOK_S)

    def _claim_source(self, instance: Instance, name: str, since: int) -> bool:
        try:
            self._admin.claim(name, instance.run, instance.run, True, True, since)
        except TakenOver:
            return False
        before = self._serving.get(name)
        if before is not None and before is not instance and self._is_reached(before):
            self._interrupt(before, [name], "superseded")
            before.serves.pop(name, None)  # its next hop is refused
        instance.serves[name] = since
        self._serving[name] = instance
        self._recover(name)
        return True

    def _check_owners(self, instance: Instance, claimed: list[str]) -> None:
        """Count generations of these sources that had another owner before."""
        pipe = self._client.pipeline(transaction=False)
        for name in claimed:
            pipe.hget(keys.own(name), "generation")
        for name, generation in zip(claimed, pipe.execute(), strict=True):
            owner = self._owned.setdefault((name, int(generation)), instance.run)
            self.week.owners += int(owner != instance.run)

    def _silence_s(self, run: str) -> float:
        """Return the seconds since the last sign of life of a run; 0 if it gives signs."""
        return self._now - self._silent_s.get(run, self._now)

    # -- sources

    def _interrupt(self, by: Instance, names: Iterable[str], cause: str) -> None:
        """Note that these sources have no results from now on, if this instance served them."""
        for name in names:
            if self._serving.get(name) is by:
                self._lost.setdefault(name, (self._now, cause))

    def _recover(self, name: str) -> None:
        if name in self._lost:
            since_s, cause = self._lost.pop(name)
            seconds = self._now + self._random.uniform(*FIRST_S) - since_s
            self.week.recovered.setdefault(cause, []).append(seconds)

    def _is_overdue(self, name: str) -> bool:
        """Return whether a source has no results although the slot that it has could serve it."""
        since_s, _ = self._lost.get(name, (self._now, ""))
        slot = self._instances.get(self._plan.sources[name].slot)
        return self._now - since_s > OVERDUE_S and slot is not None and slot.is_up

    # -- the plan

    def _drain(self, cause: str, slots: list[str], is_drained: bool) -> None:
        self._change(cause, drain_slots(self._plan, slots, is_drained))

    def _change(self, cause: str, plan: FleetPlan) -> None:
        """Write this plan, check it, and let the slots that it concerns look at it."""
        self._fleet.write(plan)
        changed: set[str] = set()
        for name, source in plan.sources.items():
            before = self._plan.sources.get(name)
            if before is None or before.slot != source.slot:
                changed.add(source.slot)
                if before is not None and before.slot:
                    changed.add(before.slot)
                    self._count_move(cause, plan, before.slot)
        for name in self._plan.sources.keys() - plan.sources.keys():
            changed.add(self._plan.sources[name].slot)
            self._lost.pop(name, None)
        self._plan = plan
        self._by_slot = {}
        for name, source in plan.sources.items():
            self._by_slot.setdefault(source.slot, {})[name] = source
        self._check_room()
        for slot in sorted(changed & self._instances.keys()):
            self._look_soon(self._instances[slot])

    def _count_move(self, cause: str, plan: FleetPlan, left: str) -> None:
        self.week.moves[cause] = self.week.moves.get(cause, 0) + 1
        room = plan.slots.get(left)
        self.week.needless += int(room is not None and not room.drained)

    def _check_room(self) -> None:
        waiting = self._by_slot.get("", {})
        if not waiting:
            return
        free = [0]
        for name, room in self._plan.slots.items():
            if not room.drained:
                served = self._by_slot.get(name, {}).values()
                load = sum(round(source.cost * MILLI) for source in served)
                free.append(round(room.cores * MILLI) - load)
        costs = [round(source.cost * MILLI) for source in waiting.values()]
        self.week.unplaced += sum(cost <= max(free) for cost in costs)
