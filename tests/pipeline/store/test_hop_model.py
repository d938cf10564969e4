"""The protocol against a model of it: hypothesis plays runs, their workers, zombies and failovers.

The model is a second, plain implementation of DESIGN's laws 1 to 4 in memory; the real thing is
the function library in a real Valkey, spoken to over the real wire. What a replica has is a copy of
all keys; a failover, or a log that lost its end, puts the copy in their place.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import SourceOwned, TakenOver
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import (
    FRAME,
    Commit,
    CommitStatus,
    Entry,
    SetAside,
    SourceHop,
    attach_command,
    await_command,
    epoch_command,
    hop_command,
    read_attached,
    read_replies,
    trim_command,
)
from framegate.pipeline.store.worker_connections import Link
from tests.support.servers import server

SOURCES = ("a", "b")
STAGES = ("decode", "window", "detect")
RUNS = ("one", "two", "three")

sources = st.sampled_from(SOURCES)
runs = st.sampled_from(RUNS)
places = st.sampled_from([(source, stage) for source in SOURCES for stage in STAGES])


@dataclass
class ModelStage:
    token: int = 0
    position: Position = START
    state: bytes | None = None
    stream: list[tuple[Position, bytes]] = field(default_factory=list)


@dataclass
class ModelSource:
    owner: str = ""
    generation: int = 0
    superseded: list[str] = field(default_factory=list)
    since: int = 0
    announced: str = ""
    epoch: int = 0
    count: int = 0
    asides: int = 0
    stages: dict[str, ModelStage] = field(
        default_factory=lambda: {stage: ModelStage() for stage in STAGES}
    )


@dataclass(frozen=True)
class Worker:
    """What a worker remembers since it attached; it may be a zombie by now.

    epoch  in which it decodes, once it has asked for one
    """

    run: str
    token: int
    position: Position
    epoch: int | None = None


class Protocol(RuleBasedStateMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.link = Link(self.url)
        self.link.call("FLUSHALL")
        self.store = StoreAdmin(self.url)
        self.store.prepare()
        self.model = {source: ModelSource() for source in SOURCES}
        self.workers: dict[tuple[str, str], list[Worker]] = {}
        self.used: dict[str, list[int]] = {source: [] for source in SOURCES}
        self.seen: dict[tuple[str, str], dict[Position, bytes]] = {}
        self.owners: dict[tuple[str, int], str] = {}
        self.frames = 0

    @initialize()
    def begin(self) -> None:
        for source in SOURCES:
            self.claim(source, RUNS[0], False, False, since=0, cut=False, serves=True)

    # -- replicas

    @rule()
    def replicate(self) -> None:
        """All that was written is on the replica."""
        names = self.link.call("KEYS", "*")
        self.replica = {name: self.link.call("DUMP", name) for name in names}
        self.replica_model = copy.deepcopy(self.model)

    @rule(serves=st.booleans())
    def fail_over(self, serves: bool) -> None:
        """What the replica does not have never was. All connections break."""
        self.link.call("FLUSHALL")
        for name, data in self.replica.items():
            self.link.call("RESTORE", name, "0", data)
        self.model = copy.deepcopy(self.replica_model)
        self.workers = {}
        if serves:
            for source in SOURCES:
                self._serve(source)

    # -- ownership. cut: the call came to the store, but no replica hears of it in time, or nobody
    #    hears the answer: what it gave is not used.

    @rule(
        source=sources,
        run=runs,
        take_over=st.booleans(),
        by_hand=st.booleans(),
        since=st.sampled_from((0, 0, 1, 2, 3)),
        cut=st.booleans(),
        serves=st.booleans(),
    )
    def claim(
        self,
        source: str,
        run: str,
        take_over: bool,
        by_hand: bool,
        since: int,
        cut: bool,
        serves: bool,
    ) -> None:
        """since: version of the plan of a fleet; 0: the run is no slot"""
        model = self.model[source]
        is_fresh = since > model.since
        may_have = is_fresh or run not in model.superseded or by_hand
        if since and since == model.since and not model.owner:
            may_have = True
        try:
            self.store.claim(source, run, f"run {run}", take_over, by_hand, since)
            said = "OK"
        except SourceOwned:
            said = "OWNED"
        except TakenOver:
            said = "SUPERSEDED"
        if 0 < since < model.since:
            assert said == "SUPERSEDED", "an older plan"
        elif run == model.owner:
            assert said == "OK"
        elif not may_have:
            assert said == "SUPERSEDED"
        elif model.owner and not take_over:
            assert said == "OWNED"
        else:
            assert said == "OK"
            model.superseded = [other for other in model.superseded if other != run]
            model.superseded += [model.owner] if model.owner else []
            model.owner, model.generation = run, model.generation + 1
        if said == "OK":
            model.since = since
        if said == "OK" and since:
            model.stages["decode"].state = None  # another file, or a camera
        if said == "OK" and not cut:
            self.replicate()
            assert self.owners.setdefault((source, model.generation), run) == run
            if serves:
                self._serve(source)

    def _serve(self, source: str) -> None:
        """The owner's workers attach, and decode asks for an epoch, as they do at a start."""
        owner = self.model[source].owner
        if not owner:
            return
        for stage in STAGES:
            self.attach((source, stage), owner, cut=False)
        self._ask_for_epoch(source, len(self.workers[source, "decode"]) - 1, cut=False)

    @rule(names=st.sets(sources, min_size=1), run=runs, removed=st.booleans())
    def release(self, names: set[str], run: str, removed: bool) -> None:
        self.store.release_all(sorted(names), run, removed)
        for model in (self.model[source] for source in names):
            if model.owner == run:
                model.owner = ""
                if removed or not model.since:  # the next slot needs the model
                    model.announced = ""
                model.superseded = [] if removed else model.superseded

    @rule(source=sources, run=runs, model=st.sampled_from(["", "yard@1", "yard@2"]))
    def announce(self, source: str, run: str, model: str) -> None:
        """Only the owner says which model looks at a source."""
        self.store.announce_models({source: model}, run, "host:/models")
        if self.model[source].owner == run:
            self.model[source].announced = model

    @rule(place=places, run=runs, cut=st.booleans())
    def attach(self, place: tuple[str, str], run: str, cut: bool) -> None:
        source, stage = place
        model = self.model[source].stages[stage]
        attached = read_attached(self.link.call(*attach_command(*place, run)))
        if self.model[source].owner != run:
            assert attached is CommitStatus.FENCED
            return
        model.token += 1
        assert not isinstance(attached, CommitStatus)
        assert (int(attached.token), attached.position) == (model.token, model.position)
        assert attached.state == model.state
        if not cut:
            self.replicate()
            self.workers.setdefault(place, []).append(Worker(run, model.token, model.position))

    @precondition(lambda self: any(stage == "decode" for _, stage in self.workers))
    @rule(data=st.data(), cut=st.booleans())
    def next_epoch(self, data: st.DataObject, cut: bool) -> None:
        """None is given twice, whoever asks, whatever was lost."""
        place = data.draw(st.sampled_from(sorted(p for p in self.workers if p[1] == "decode")))
        self._ask_for_epoch(place[0], self.workers[place].index(self._worker(data, place)), cut)

    def _ask_for_epoch(self, source: str, n: int, cut: bool) -> None:
        model, place = self.model[source], (source, "decode")
        worker = self.workers[place][n]
        reply = self.link.call(*epoch_command(source, str(worker.token).encode(), worker.run))
        if (model.owner, model.stages["decode"].token) != (worker.run, worker.token):
            assert reply == [b"FENCED"]
            return
        model.epoch += 1
        assert reply == [b"OK", model.epoch]
        if not cut:
            self.replicate()
            assert model.epoch > max(self.used[source], default=0)
            self.used[source].append(model.epoch)
            self.workers[place][n] = replace(worker, epoch=model.epoch)

    def _worker(self, data: st.DataObject, place: tuple[str, str]) -> Worker:
        """Mostly the newest."""
        zombies = self.workers[place][-3:-1]
        newest = self.workers[place][-1]
        return data.draw(st.sampled_from([newest, newest, newest, *zombies]))

    # -- hops

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), n=st.integers(1, 4), jump=st.integers(1, 3), aside=st.booleans())
    def commit(self, data: st.DataObject, n: int, jump: int, aside: bool) -> None:
        place = data.draw(st.sampled_from(sorted(self.workers)))
        worker = self._worker(data, place)
        commit = self._commit(place, worker, n, jump, aside)
        if commit is None:
            return
        answer = self._hop([SourceHop(place[0], (commit,))])[0]
        assert answer.status is self._verdict(place, worker)
        assert answer.refused == 0
        if answer.status is CommitStatus.OK:
            self._apply(place, worker, commit)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data(), n=st.integers(1, 3))
    def fused(self, data: st.DataObject, n: int) -> None:
        """Two stages in one hop: of one source both are written or neither is."""
        chosen = data.draw(
            st.lists(st.sampled_from(sorted(self.workers)), min_size=2, max_size=2, unique=True)
        )
        parts = [(p, self._worker(data, p)) for p in chosen]
        commits = {p: self._commit(p, w, n, 1, aside=False) for p, w in parts}
        by_source: dict[str, list[tuple[tuple[str, str], Worker, Commit]]] = {}
        for place, worker in parts:
            if (commit := commits[place]) is not None:
                by_source.setdefault(place[0], []).append((place, worker, commit))
        if not by_source:
            return
        hops = [SourceHop(s, tuple(c for _, _, c in theirs)) for s, theirs in by_source.items()]
        answers = self._hop(hops)
        for (_, theirs), answer in zip(by_source.items(), answers, strict=True):
            verdicts = [self._verdict(place, worker) for place, worker, _ in theirs]
            refused = [v for v in verdicts if v is not CommitStatus.OK]
            assert answer.status is (refused[0] if refused else CommitStatus.OK)
            if not refused:
                for place, worker, commit in theirs:
                    self._apply(place, worker, commit)

    @rule(source=sources)
    def trim(self, source: str) -> None:
        """Trimming never removes what a reliable reader has still to read."""
        self.link.call(*trim_command(source, keys.out(source, "decode"), ("window", "detect")))
        least = min(self.model[source].stages[g].position for g in ("window", "detect"))
        left = {Position.parse(e[0]) for e in self._entries(source, "decode")}
        wanted = {at for at, _ in self.model[source].stages["decode"].stream if at > least}
        assert wanted <= left

    @rule(source=sources, ahead=st.integers(0, 3))
    def await_room(self, source: str, ahead: int) -> None:
        """A waiting decoder is woken at once if the reader is there, else marked once."""
        reader = self.model[source].stages["detect"]
        target = Position(reader.position.epoch, reader.position.seq + ahead)
        self.link.call("DEL", keys.room(source))
        self.link.call(*await_command(source, "detect", target))
        woken = self.link.call("EXISTS", keys.room(source)) == 1
        assert woken == (ahead == 0)
        if not woken:
            mark = self.link.call("HGET", keys.at(source, "detect"), "w")
            assert Position.parse(mark) == target

    # -- the model

    def _commit(
        self, place: tuple[str, str], worker: Worker, n: int, jump: int, aside: bool
    ) -> Commit | None:
        """None where there is nothing to say: no epoch to decode in, nothing to read."""
        source, stage = place
        decodes = stage == "decode"
        entries = self._decoded(worker, n, jump) if decodes else self._read(place, worker, n)
        if not entries:
            return None
        last = entries[-1].position
        return Commit(
            stage=stage,
            out=keys.out(source, stage),
            token=str(worker.token).encode(),
            previous=worker.position,
            last=last,
            entries=entries,
            fields=(("s", f"state at {last}".encode()),),
            counts=(("decoded", len(entries)),),
            asides=(SetAside(stage, last, "stage_error", b"bytes"),) if aside else (),
        )

    def _decoded(self, worker: Worker, n: int, jump: int) -> tuple[Entry, ...]:
        """A camera's frames: no two were ever alike."""
        if worker.epoch is None:
            return ()
        first = worker.position.seq + jump if worker.position.epoch == worker.epoch else 0
        self.frames += n
        return tuple(
            Entry(Position(worker.epoch, first + i), FRAME, f"{self.frames} {i}".encode())
            for i in range(n)
        )

    def _read(self, place: tuple[str, str], worker: Worker, n: int) -> tuple[Entry, ...]:
        source, stage = place
        before = self.model[source].stages[STAGES[STAGES.index(stage) - 1]].stream
        waiting = [(at, data) for at, data in before if at > worker.position][:n]
        return tuple(Entry(at, FRAME, stage.encode() + b" of " + data) for at, data in waiting)

    def _hop(self, hops: list[SourceHop]) -> list[Any]:
        return read_replies(self.link.call(*hop_command(hops)))

    def _verdict(self, place: tuple[str, str], worker: Worker) -> CommitStatus:
        model = self.model[place[0]].stages[place[1]]
        if worker.token != model.token:
            return CommitStatus.FENCED
        return CommitStatus.OK if worker.position == model.position else CommitStatus.MOVED

    def _apply(self, place: tuple[str, str], worker: Worker, commit: Commit) -> None:
        source, stage = place
        model = self.model[source].stages[stage]
        model.position = commit.last
        model.state = dict(commit.fields)["s"]
        model.stream += [(entry.position, entry.data) for entry in commit.entries]
        self.model[source].count += len(commit.entries)
        self.model[source].asides += len(commit.asides)
        self._look_on(place, commit)
        at = self.workers[place].index(worker)
        # Half of the workers learn that they were heard; the others' reply was lost.
        if len(commit.entries) % 2:
            self.workers[place][at] = replace(worker, position=commit.last)

    def _look_on(self, place: tuple[str, str], commit: Commit) -> None:
        """Who reads sees ids that grow, and never another content of one, failovers or not."""
        seen = self.seen.setdefault(place, {})
        for entry in commit.entries:
            if entry.position not in seen:
                assert entry.position > max(seen, default=START)
            assert seen.setdefault(entry.position, entry.data) == entry.data

    def _entries(self, source: str, stage: str) -> list[Any]:
        found: list[Any] = self.link.call("XRANGE", keys.out(source, stage), "-", "+")
        return found

    @invariant()
    def streams_are_what_was_committed(self) -> None:
        for source, of_source in self.model.items():
            for stage, model in of_source.stages.items():
                found = [(Position.parse(e[0]), e[1][3]) for e in self._entries(source, stage)]
                assert found == model.stream[len(model.stream) - len(found) :]
                if stage != "decode":
                    assert found == model.stream
                at = self.link.call("HMGET", keys.at(source, stage), "p", "s")
                assert (at[0] is None) == (model.token == 0)
                assert at[0] is None or Position.parse(at[0]) == model.position
                assert at[1] == model.state

    @invariant()
    def counters_grow_with_commits_only(self) -> None:
        for source, model in self.model.items():
            assert int(self.link.call("HGET", keys.count(source), "decoded") or 0) == model.count
            assert self.link.call("XLEN", keys.aside(source)) == model.asides

    @invariant()
    def a_source_has_the_owner_that_claimed_it(self) -> None:
        for source, model in self.model.items():
            assert self.store.announced_model(source)[0] == model.announced
            own = self.link.call("HMGET", keys.own(source), "run", "generation", "superseded")
            if model.generation:
                superseded = " ".join(model.superseded)
                assert (own[0], int(own[1])) == (model.owner.encode(), model.generation)
                assert (own[2] or b"") == superseded.encode()

    def teardown(self) -> None:
        self.link.close()
        self.store.close()


@pytest.mark.parametrize(
    "examples",
    [
        15,  # each takes 4 s
        pytest.param(60, marks=pytest.mark.whole_run),
        pytest.param(400, marks=pytest.mark.long),
    ],
)
def test_protocol_equals_its_model(tmp_path: Path, examples: int) -> None:
    with server(tmp_path) as store:
        machine = type("Machine", (Protocol,), {"url": store.url})
        run = machine.TestCase
        run.settings = settings(max_examples=examples, stateful_step_count=30, deadline=None)
        run("runTest").runTest()
