"""Instances of slots against the store: hypothesis kills, cuts, pauses and restarts them, changes
the plan, and puts the store back to what a replica had.

An instance does what a slot does at a look, with the real plan, claims, tokens, epochs and hops. It
is paused as long as no rule chooses it. What must be true follows from the promise to readers and
hosts, not from the code: `Fleet` remembers who was given what.
"""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults, TakenOver
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.fleet.change import FleetContent, apply_content, drain_slots, move_sources
from framegate.pipeline.fleet.fleet_store import FleetStore, SlotSign
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource
from framegate.pipeline.run.slot import HAND_OVER_S, NextStep, next_step
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import (
    FRAME,
    Commit,
    CommitStatus,
    Entry,
    SourceHop,
    attach_command,
    epoch_command,
    hop_command,
    read_attached,
    read_replies,
)
from framegate.pipeline.store.worker_connections import Link
from tests.support.servers import server

SLOTS = ("a", "b")
SOURCES = ("gate", "yard", "hall")
MOST_INSTANCES = 5
ROUNDS = 4  # of looks, after which a fleet without failures is at rest

slots = st.sampled_from(SLOTS)
sources = st.sampled_from(SOURCES)


@dataclass
class Served:
    """What the worker of a source remembers since it attached."""

    token: bytes
    position: Position
    epoch: int


@dataclass
class Instance:
    """A process of a slot. serves: None for a source whose worker has still to attach"""

    slot: str
    run: str
    is_up: bool = True
    is_cut: bool = False
    has_slot: bool = False
    serves: dict[str, Served | None] = field(default_factory=dict)


class Fleet(RuleBasedStateMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.link = Link(self.url)
        self.link.call("FLUSHALL")
        self.admin = StoreAdmin(self.url)
        self.admin.prepare()
        self.plans = FleetStore(self.url)
        self.instances: list[Instance] = []
        self.newest: dict[str, Instance] = {}  # the last that claimed its slot
        self.owners: dict[tuple[str, int], str] = {}
        self.seen: dict[str, dict[Position, bytes]] = {source: {} for source in SOURCES}
        self.frames = 0
        content = FleetContent(
            dict.fromkeys(SLOTS, 2.0), {name: FleetSource({}, 0.2) for name in SOURCES}
        )
        self.write(apply_content(FleetPlan(), content))

    # -- the store

    def replicate(self) -> None:
        """All that was written is on the replica: a claim, a token and an epoch wait for that."""
        names = self.link.call("KEYS", "*")
        self.replica = {name: self.link.call("DUMP", name) for name in names}

    @rule()
    def fail_over(self) -> None:
        """Results that the replica does not have never were. All connections break."""
        self.link.call("FLUSHALL")
        for name, data in self.replica.items():
            self.link.call("RESTORE", name, "0", data)
        for instance in self.instances:
            instance.serves = dict.fromkeys(instance.serves)

    # -- the plan

    def plan(self) -> FleetPlan:
        plan = self.plans.plan()
        assert plan is not None
        return plan

    def write(self, plan: FleetPlan) -> None:
        self.plans.write(plan)
        self.replicate()

    @rule(names=st.sets(sources, min_size=1), slot=slots)
    def move(self, names: set[str], slot: str) -> None:
        with suppress(ConfigFaults):  # the slot is drained
            self.write(move_sources(self.plan(), sorted(names), slot))

    @rule(slot=slots, is_drained=st.booleans())
    def drain(self, slot: str, is_drained: bool) -> None:
        self.write(drain_slots(self.plan(), [slot], is_drained))

    # -- instances

    @precondition(lambda self: len(self.instances) < MOST_INSTANCES)
    @rule(slot=slots)
    def start(self, slot: str) -> None:
        """An engine starts an instance, also while it only thinks that the last one is dead."""
        instance = Instance(slot, f"{slot}{len(self.instances)}")
        self.instances.append(instance)
        self._look(instance, waited_s=0.0)

    @precondition(lambda self: self.instances)
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """What is down is started again on its host, with its data folder and so its run."""
        instance = data.draw(st.sampled_from(self.instances))
        if not instance.is_up:
            self._restart(instance)

    def _restart(self, instance: Instance) -> None:
        instance.is_up, instance.has_slot = True, False
        self._look(instance, waited_s=0.0)

    @precondition(lambda self: self.instances)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.instances)))

    @precondition(lambda self: self.instances)
    @rule(data=st.data(), is_cut=st.booleans())
    def cut(self, data: st.DataObject, is_cut: bool) -> None:
        data.draw(st.sampled_from(self.instances)).is_cut = is_cut

    @precondition(lambda self: self.instances)
    @rule(data=st.data(), waited_s=st.sampled_from((0.0, HAND_OVER_S)))
    def look(self, data: st.DataObject, waited_s: float) -> None:
        self._look(data.draw(st.sampled_from(self.instances)), waited_s)

    def _look(self, instance: Instance, waited_s: float) -> None:
        """Do what SlotFollower does. waited_s: how long it has waited for owners that are alive"""
        if not instance.is_up or instance.is_cut or not self._claim_slot(instance):
            return
        plan = self.plan()
        wanted = plan.sources_of(instance.slot)
        for name in [name for name in instance.serves if name not in wanted]:
            self.admin.release(name, instance.run)
            del instance.serves[name]
        missing = [name for name in wanted if name not in instance.serves]
        found = self.plans.owners(missing)
        alive = {each.run for each in self.instances if self._is_alive(each)}
        for name in missing:
            since, owner = wanted[name].since, found[name]
            step = next_step(owner, instance.run, since, owner.run in alive, waited_s)
            if step is NextStep.CLAIM:
                with suppress(TakenOver):
                    self.admin.claim(name, instance.run, instance.run, True, True, since)
                    instance.serves[name] = None
        self.replicate()

    def _claim_slot(self, instance: Instance) -> bool:
        newest = self.newest.get(instance.slot)
        is_other = newest is not None and newest is not instance
        is_newer_alive = is_other and newest is not None and self._is_alive(newest)
        was_superseded = instance.has_slot and is_other
        starts = not instance.has_slot and not is_newer_alive
        try:
            self.plans.claim_slot(instance.slot, instance.run, instance.run, starts)
        except TakenOver:
            assert is_other, "refused, although no other instance has the slot"
            self._end(instance)
            return False
        assert not was_superseded, "an instance got a slot back that a newer one has"
        instance.has_slot = True
        self.newest[instance.slot] = instance
        return True

    @staticmethod
    def _is_alive(instance: Instance) -> bool:
        """Whether its sign of life is visible."""
        return instance.is_up and not instance.is_cut and instance.has_slot

    @staticmethod
    def _end(instance: Instance) -> None:
        instance.is_up, instance.serves = False, {}

    # -- workers

    @precondition(lambda self: any(each.serves for each in self.instances))
    @rule(data=st.data(), is_heard=st.booleans())
    def publish(self, data: st.DataObject, is_heard: bool) -> None:
        """The worker of a source, perhaps a zombie, attaches, or publishes a frame."""
        serving = [each for each in self.instances if each.serves]
        instance = data.draw(st.sampled_from(serving))
        name = data.draw(st.sampled_from(sorted(instance.serves)))
        if not instance.is_cut:
            self._publish(instance, name, is_heard)

    def _publish(self, instance: Instance, name: str, is_heard: bool) -> bool:
        """Whether a frame was published. A reply that is not heard breaks the connection."""
        served = instance.serves[name]
        if served is None:
            self._attach(instance, name)
            return False
        self.frames += 1
        at = Position(served.epoch, 0)
        if served.position.epoch == served.epoch:
            at = Position(served.epoch, served.position.seq + 1)
        entry = Entry(at, FRAME, f"{self.frames} of {instance.run}".encode())
        out = keys.results(name)
        commit = Commit("decode", out, served.token, served.position, at, (entry,))
        command = hop_command([SourceHop(name, (commit,))])
        (reply,) = read_replies(self.link.call(*command))
        if reply.status is CommitStatus.FENCED:
            assert self._owner(name) != instance.run or len(self._workers(name)) > 1
            del instance.serves[name]
            return False
        assert (reply.status, reply.refused) == (CommitStatus.OK, 0)
        self._read(name, entry)
        instance.serves[name] = None
        if is_heard:
            instance.serves[name] = Served(served.token, at, served.epoch)
        return True

    def _attach(self, instance: Instance, name: str) -> None:
        attached = read_attached(self.link.call(*attach_command(name, "decode", instance.run)))
        is_owner = self._owner(name) == instance.run
        if isinstance(attached, CommitStatus):
            assert not is_owner
            del instance.serves[name]
            return
        assert is_owner, "a run that is not the owner got a token"
        reply = self.link.call(*epoch_command(name, attached.token, instance.run))
        assert reply[0] == b"OK"
        instance.serves[name] = Served(attached.token, attached.position, reply[1])
        self.replicate()

    def _read(self, name: str, entry: Entry) -> None:
        """A reader sees ids that grow, and never another content of one, failovers or not."""
        seen = self.seen[name]
        assert all(entry.position > position for position in seen)
        seen[entry.position] = entry.data

    def _owner(self, name: str) -> str:
        """The run of the newest generation, by what this test has seen of them."""
        self.one_owner_in_each_generation()
        return self.owners[max(key for key in self.owners if key[0] == name)]

    def _workers(self, name: str) -> list[Instance]:
        return [each for each in self.instances if name in each.serves]

    # -- what is true

    @invariant()
    def one_owner_in_each_generation(self) -> None:
        for name in (*SOURCES, *SLOTS):
            own = keys.own(name)
            if name in SLOTS:
                own = keys.fleet_slot_own(name)
            run, generation = self.link.call("HMGET", own, "run", "generation")
            if run:
                owner = self.owners.setdefault((name, int(generation)), run.decode())
                assert owner == run.decode(), f"two owners of {name} in generation {generation}"

    def teardown(self) -> None:
        try:
            self._come_to_rest()
        finally:
            for each in (self.link, self.admin, self.plans):
                each.close()

    def _come_to_rest(self) -> None:
        """Without more failures, each source has its worker, and then no generation grows: also if
        an engine restarts all that ends, for ever.
        """
        for instance in self.instances:
            instance.is_cut = False
            if not instance.is_up:
                self._restart(instance)
        for _ in range(ROUNDS):
            self._look_around()
        before = self._generations()
        for _ in range(ROUNDS):
            for instance in self.instances:
                if not instance.is_up:
                    self._restart(instance)
            self._look_around()
        assert self._generations() == before, "instances take turns"
        for name, source in self.plan().sources.items():
            up = [each for each in self.instances if each.is_up and each.slot == source.slot]
            assert len(up) <= 1, "two instances of a slot are up"
            assert [each for each in self._workers(name) if each.is_up] == up
            for instance in up:
                published = [self._publish(instance, name, is_heard=True) for _ in range(2)]
                assert published[-1]

    def _look_around(self) -> None:
        for instance in self.instances:
            self._look(instance, HAND_OVER_S)
            for name in list(instance.serves):
                self._publish(instance, name, is_heard=True)

    def _generations(self) -> list[Any]:
        own = [keys.own(name) for name in SOURCES]
        own += [keys.fleet_slot_own(slot) for slot in SLOTS]
        return [self.link.call("HGET", key, "generation") for key in own]


@pytest.mark.parametrize("examples", [40, pytest.param(400, marks=pytest.mark.long)])
def test_whatever_fails_a_source_has_one_owner_and_then_rest(tmp_path: Path, examples: int) -> None:
    with server(tmp_path) as store:
        machine = type("Machine", (Fleet,), {"url": store.url})
        run = machine.TestCase
        run.settings = settings(max_examples=examples, stateful_step_count=30, deadline=None)
        run("runTest").runTest()


def test_two_instances_that_are_restarted_for_ever_start_once_each_then_there_is_silence(
    tmp_path: Path,
) -> None:
    """As an engine does it that ignores exit codes. The newer one gives signs of life."""
    with server(tmp_path) as store, closing(FleetStore(store.url)) as plans:
        StoreAdmin(store.url).prepare()
        plans.claim_slot("a", "older", "older", starts=True)
        plans.claim_slot("a", "newer", "newer", starts=True)
        is_over = threading.Event()

        def sign() -> None:
            with closing(FleetStore(store.url)) as own:
                while not is_over.wait(0.1):
                    own.sign("a", SlotSign("newer", "host", 1, 0))

        plans.sign("a", SlotSign("newer", "host", 1, 0))
        signing = threading.Thread(target=sign)
        signing.start()
        try:
            for _ in range(5):
                with pytest.raises(TakenOver, match="a newer instance of it is up"):
                    plans.claim_slot("a", "older", "older", starts=True)
                plans.claim_slot("a", "newer", "newer")
        finally:
            is_over.set()
            signing.join()
        with closing(Link(store.url)) as link:
            own = keys.fleet_slot_own("a")
            assert link.call("HMGET", own, "run", "generation") == [b"newer", b"2"]
