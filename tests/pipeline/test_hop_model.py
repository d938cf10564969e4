"""The protocol against a model of it: hypothesis plays stages, zombies, replays and rollbacks.

The model is a second, plain implementation of DESIGN's laws 1 to 4 in memory; the real thing is
the function library in a real Valkey, spoken to over the real wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline import keys
from pipeline.hop import (
    FRAME,
    Commit,
    Entry,
    SetAside,
    SourceHop,
    Verdict,
    attach_command,
    await_command,
    epoch_command,
    hop_command,
    read_answers,
    read_attached,
    trim_command,
)
from pipeline.records import START, Position
from pipeline.store import Store
from pipeline.wire import Link
from tests.pipeline.servers import server

SOURCES = ("a", "b")
STAGES = ("decode", "window", "detect")
RUN = "run-1"

places = st.sampled_from([(source, stage) for source in SOURCES for stage in STAGES])


@dataclass
class ModelStage:
    token: int = 0
    position: Position = START
    state: bytes | None = None
    stream: list[tuple[Position, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Worker:
    """What a worker remembers since it attached; it may be a zombie by now."""

    token: int
    position: Position


class Protocol(RuleBasedStateMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.link = Link(self.url)
        self.link.call("FLUSHALL")
        self.store = Store(self.url)
        self.store.prepare()
        self.stages = {(s, g): ModelStage() for s in SOURCES for g in STAGES}
        self.workers: dict[tuple[str, str], list[Worker]] = {}
        self.counts = dict.fromkeys(SOURCES, 0)
        self.epochs = dict.fromkeys(SOURCES, 0)
        self.asides = dict.fromkeys(SOURCES, 0)

    @initialize()
    def claim(self) -> None:
        for source in SOURCES:
            self.store.claim(source, RUN, "the test", take_over=False)

    @rule(place=places)
    def attach(self, place: tuple[str, str]) -> None:
        model = self.stages[place]
        model.token += 1
        attached = read_attached(self.link.call(*attach_command(*place, RUN)))
        assert not isinstance(attached, Verdict)
        assert (int(attached.token), attached.position) == (model.token, model.position)
        assert attached.state == model.state
        self.workers.setdefault(place, []).append(Worker(model.token, model.position))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), n=st.integers(0, 4), jump=st.integers(1, 3), aside=st.booleans())
    def commit(self, data: st.DataObject, n: int, jump: int, aside: bool) -> None:
        place = data.draw(st.sampled_from(sorted(self.workers)))
        worker = data.draw(st.sampled_from(self.workers[place]))
        commit = self._commit(place, worker, n, jump, aside)
        answer = self._hop([SourceHop(place[0], (commit,))])[0]
        self._expect(place, worker, commit, answer.verdict)

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data(), n=st.integers(1, 3))
    def fused(self, data: st.DataObject, n: int) -> None:
        """Two stages of a source in one hop: both are written or neither is."""
        chosen = data.draw(
            st.lists(st.sampled_from(sorted(self.workers)), min_size=2, max_size=2, unique=True)
        )
        parts = [(p, data.draw(st.sampled_from(self.workers[p]))) for p in chosen]
        commits = {p: self._commit(p, w, n, 1, aside=False) for p, w in parts}
        by_source: dict[str, list[tuple[tuple[str, str], Worker]]] = {}
        for place, worker in parts:
            by_source.setdefault(place[0], []).append((place, worker))
        hops = [
            SourceHop(s, tuple(commits[p] for p, _ in theirs)) for s, theirs in by_source.items()
        ]
        answers = self._hop(hops)
        for (_, theirs), answer in zip(by_source.items(), answers, strict=True):
            verdicts = [self._verdict(place, worker) for place, worker in theirs]
            refused = [v for v in verdicts if v is not Verdict.OK]
            assert answer.verdict is (refused[0] if refused else Verdict.OK)
            if not refused:
                for place, worker in theirs:
                    self._apply(place, worker, commits[place])

    @rule(source=st.sampled_from(SOURCES))
    def next_epoch(self, source: str) -> None:
        token = self.stages[source, "decode"].token
        reply = self.link.call(*epoch_command(source, str(token).encode(), RUN))
        if token == 0:
            assert reply == [b"GONE"]
            return
        self.epochs[source] += 1
        assert reply == [b"OK", self.epochs[source]]
        assert self.link.call(*epoch_command(source, str(token - 1).encode(), RUN)) == [b"FENCED"]

    @rule(source=st.sampled_from(SOURCES))
    def trim(self, source: str) -> None:
        """Trimming never removes what a reliable reader has still to read."""
        self.link.call(*trim_command(source, keys.out(source, "decode"), ("window", "detect")))
        least = min(self.stages[source, g].position for g in ("window", "detect"))
        left = {Position.parse(e[0]) for e in self._entries(source, "decode")}
        wanted = {at for at, _ in self.stages[source, "decode"].stream if at > least}
        assert wanted <= left

    @rule(source=st.sampled_from(SOURCES), ahead=st.integers(0, 3))
    def await_room(self, source: str, ahead: int) -> None:
        """A waiting decoder is woken at once if the reader is there, else marked once."""
        reader = self.stages[source, "detect"]
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
    ) -> Commit:
        source, stage = place
        epoch = max(1, worker.position.epoch)
        first = worker.position.seq + jump if worker.position.epoch else 0
        entries = tuple(
            Entry(Position(epoch, first + i), FRAME, f"{stage} {first + i}".encode())
            for i in range(n)
        )
        last = entries[-1].position if entries else Position(epoch, first)
        asides = (SetAside(stage, last, "stage_error", b"bytes"),) if aside else ()
        return Commit(
            stage=stage,
            out=keys.out(source, stage),
            token=str(worker.token).encode(),
            previous=worker.position,
            last=last,
            entries=entries,
            fields=(("s", f"state at {last}".encode()),),
            counts=(("decoded", n),),
            asides=asides,
        )

    def _hop(self, hops: list[SourceHop]) -> list[Any]:
        return read_answers(self.link.call(*hop_command(hops)))

    def _verdict(self, place: tuple[str, str], worker: Worker) -> Verdict:
        model = self.stages[place]
        if worker.token != model.token:
            return Verdict.FENCED
        return Verdict.OK if worker.position == model.position else Verdict.MOVED

    def _expect(
        self, place: tuple[str, str], worker: Worker, commit: Commit, verdict: Verdict
    ) -> None:
        assert verdict is self._verdict(place, worker)
        if verdict is Verdict.OK:
            self._apply(place, worker, commit)

    def _apply(self, place: tuple[str, str], worker: Worker, commit: Commit) -> None:
        model = self.stages[place]
        model.position = commit.last
        model.state = dict(commit.fields)["s"]
        model.stream += [(entry.position, entry.data) for entry in commit.entries]
        self.counts[place[0]] += len(commit.entries)
        self.asides[place[0]] += len(commit.asides)
        at = self.workers[place].index(worker)
        # Half of the workers learn that they were heard; the others' reply was lost.
        if len(commit.entries) % 2:
            self.workers[place][at] = Worker(worker.token, commit.last)

    def _entries(self, source: str, stage: str) -> list[Any]:
        found: list[Any] = self.link.call("XRANGE", keys.out(source, stage), "-", "+")
        return found

    @invariant()
    def streams_are_what_was_committed(self) -> None:
        for (source, stage), model in self.stages.items():
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
        for source, n in self.counts.items():
            assert int(self.link.call("HGET", keys.count(source), "decoded") or 0) == n
            assert self.link.call("XLEN", keys.aside(source)) == self.asides[source]

    def teardown(self) -> None:
        self.link.close()
        self.store.close()


@pytest.mark.parametrize("examples", [60, pytest.param(600, marks=pytest.mark.long)])
def test_protocol_equals_its_model(tmp_path: Path, examples: int) -> None:
    with server(tmp_path) as store:
        machine = type("Machine", (Protocol,), {"url": store.url})
        run = machine.TestCase
        run.settings = settings(max_examples=examples, stateful_step_count=30, deadline=None)
        run("runTest").runTest()
