"""A loop of stages whose store is set back or emptied, or whose work another worker takes over."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import Fenced, FramegateError, StoreRefused
from framegate.pipeline.contracts.queries import AskCounts
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import SourceSpec, StageSpec, WorkerSpec
from framegate.pipeline.contracts.stage import WAITS, Item, Stage
from framegate.pipeline.engine import control_messages, inbox, stage_loop
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import SetSources, Stop
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.runner import Runner
from framegate.pipeline.engine.stage_loop import StageLoop
from framegate.pipeline.engine.store_session import run_connected
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import (
    FRAME,
    Attached,
    Commit,
    Entry,
    SourceHop,
    attach_command,
    hop_command,
    read_attached,
)
from framegate.pipeline.store.worker_connections import Link
from tests.support.runs import wait_until
from tests.support.servers import server

RUN = "the-run"
STAGES = [
    StageSpec("decode", "", None, main=True, reliable=True, publishes=False),
    StageSpec("ask", "", "decode", main=True, reliable=True, publishes=False),
]
FRAMES = 5


class Questions:
    """Answers come when the test says so; none of them waits for long before it is seen to.

    asked  the last frame of each source that the stage was given
    dues   whether an answer may be late
    """

    def __init__(self) -> None:
        self.counts = AskCounts()
        self.answered: dict[str, Position] = {}
        self.asked: dict[str, Position] = {}
        self.dues = True
        self._came = os.eventfd(0, os.EFD_NONBLOCK)

    def answer(self, source: str, up_to: Position) -> None:
        self.answered[source] = up_to
        os.eventfd_write(self._came, 1)

    def fileno(self) -> int:
        return self._came

    def hear(self) -> None:
        os.eventfd_read(self._came)

    def due_in(self) -> float | None:
        return 0.01 if self.dues else None

    def forget_source(self, source: str) -> None: ...

    def absent(self) -> str | None:
        return None


class Ask(Stage[Any]):
    """Waits for an answer about each frame."""

    asks: Questions

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        known = self.asks.answered
        self.asks.asked |= {item.source: item.position for item in batch}
        return [
            1 if item.position <= known.get(item.source, Position(0, 0)) else WAITS
            for item in batch
        ], states


class Bench:
    """A loop in a thread, and what the test does to its store."""

    def __init__(self, folder: Path, url: str, sources: Sequence[str]) -> None:
        self.url, self.link = url, Link(url)
        store = StoreAdmin(url)
        store.prepare()
        for source in sources:
            store.claim(source, RUN, "the test", take_over=False)
        store.close()
        spec = WorkerSpec(
            name="ask",
            run=RUN,
            store=url,
            folder=str(folder),
            results_keep=100,
            stages=STAGES,
            hosted=["ask"],
            sources=[
                SourceSpec(
                    "x", name == "camera", name=name, past=0, credit=32, slots=32, pace="fast"
                )
                for name in sources
            ],
        )
        stage = Ask(None, context_alone(no_pixels, lambda: 0.0, folder, "decode"))
        stage.asks = self.questions = Questions()
        self._end, theirs = control_messages.make_pair()
        line = ControlLine(theirs)
        hosted = HostedStage(STAGES[1], stage, keep=0, asides={})
        runner = Runner(spec, [hosted], line, lambda sources: None)  # noqa: ARG005
        self.spec = spec
        self.runner = runner
        self.error: FramegateError | None = None
        self._loop = StageLoop(runner, line)
        self._line = line
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            run_connected(self.url, self._loop, self._line)
        except FramegateError as error:
            self.error = error

    def close(self) -> None:
        control_messages.send(self._end, Stop())
        self._thread.join()
        self._end.close()
        self.link.close()

    def ended(self) -> FramegateError | None:
        """Wait for the end of the loop; gives the error that ended it."""
        self._thread.join()
        return self.error

    def serve(self, *sources: str) -> None:
        """Tell the worker its sources."""
        chosen = [each for each in self.spec.sources if each.name in sources]
        control_messages.send(self._end, SetSources(chosen))

    def take_over(self, source: str) -> None:
        """Attach to a source as another worker of the run does."""
        assert isinstance(
            read_attached(self.link.call(*attach_command(source, "ask", RUN))), Attached
        )

    def decode(self, source: str, arrived: float = 0.0) -> None:
        """Put FRAMES frames more where the stage reads."""
        attached = read_attached(self.link.call(*attach_command(source, "decode", RUN)))
        assert isinstance(attached, Attached)
        first = attached.position.seq + 1 if attached.position.epoch else 0
        entries = tuple(
            Entry(
                Position(1, seq),
                FRAME,
                records.encode(Record(1, 0.0, 0.0, arrived, seq, Form(8, 8))),
            )
            for seq in range(first, first + FRAMES)
        )
        commit = Commit(
            "decode",
            keys.out(source, "decode"),
            attached.token,
            attached.position,
            entries[-1].position,
            entries,
        )
        self.link.call(*hop_command([SourceHop(source, (commit,))]))

    def at(self, source: str) -> Position:
        """Where the stage stands."""
        stands = self.link.call("HGET", keys.at(source, "ask"), "p")
        return Position.parse(stands) if stands else Position(0, 0)

    def token(self, source: str) -> bytes:
        found: bytes = self.link.call("HGET", keys.at(source, "ask"), "t")
        return found

    def reads(self) -> bool:
        """Whether the loop's read waits at the server for something to come."""
        return b" cmd=xread" in b"\n".join(
            line for line in self.link.call("CLIENT", "LIST").split(b"\n") if b"flags=b" in line
        )

    def until(self, holds: Callable[[], bool]) -> None:
        def is_so() -> bool:
            assert self._thread.is_alive(), "the loop ended"
            return holds()

        wait_until("the loop is so far", is_so)


def no_pixels(item: Item) -> Any:
    raise AssertionError(item)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with server(tmp_path / "store") as store:
        bench = Bench(tmp_path, store.url, ("one", "two", "camera"))
        try:
            yield bench
        finally:
            bench.close()


def test_a_source_that_is_set_back_begins_anew_while_a_read_is_under_way(bench: Bench) -> None:
    """Its new token is not taken for the reply to the read, nor the reply for what comes next."""
    for source in ("one", "two"):
        bench.decode(source)
    bench.until(bench.reads)
    bench.questions.answer("one", Position(1, 1))
    bench.until(lambda: bench.at("one") == Position(1, 1))
    bench.until(bench.reads)
    before = {source: bench.token(source) for source in ("one", "two")}
    bench.link.call("HSET", keys.at("one", "ask"), "p", "1-0")
    bench.questions.answer("one", Position(1, FRAMES))
    bench.until(lambda: bench.at("one") == Position(1, FRAMES - 1))
    bench.questions.answer("two", Position(1, FRAMES))
    bench.until(lambda: bench.at("two") == Position(1, FRAMES - 1))
    for source in ("one", "two"):
        written = bench.link.call("XRANGE", keys.out(source, "ask"), "-", "+")
        assert [Position.parse(entry[0]) for entry in written] == [
            Position(1, seq) for seq in range(FRAMES)
        ]
    assert bench.token("one") != before["one"]
    assert bench.token("two") == before["two"], "the others go on as they were"


def test_what_comes_of_a_camera_is_asked_about_behind_a_frame_that_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but what comes has the stage look again.
    monkeypatch.setattr(inbox, "ASK_AGAIN_S", 1000.0)
    bench.questions.dues = False
    bench.decode("camera")
    bench.until(lambda: bench.questions.asked.get("camera") == Position(1, FRAMES - 1))
    bench.decode("camera")
    bench.until(lambda: bench.questions.asked["camera"] == Position(1, 2 * FRAMES - 1))
    assert bench.at("camera") == Position(0, 0)
    bench.questions.answer("camera", Position(1, 2 * FRAMES))
    bench.until(lambda: bench.at("camera") == Position(1, 2 * FRAMES - 1))


def pass_all(bench: Bench, *sources: str) -> None:
    """Decode frames of these sources, and answer the questions about them."""
    for source in sources:
        at = bench.at(source)
        first = at.seq + 1 if at.epoch else 0
        bench.decode(source)
        bench.questions.answer(source, Position(1, first + FRAMES))
        last = Position(1, first + FRAMES - 1)
        bench.until(lambda source=source, last=last: bench.at(source) == last)


def test_a_cut_connection_costs_no_frame(bench: Bench) -> None:
    pass_all(bench, "one")
    bench.until(bench.reads)
    bench.decode("two")
    bench.link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    pass_all(bench, "one")
    bench.questions.answer("two", Position(1, FRAMES))
    bench.until(lambda: bench.at("two") == Position(1, FRAMES - 1))
    for source, frames in (("one", 2 * FRAMES), ("two", FRAMES)):
        written = bench.link.call("XRANGE", keys.out(source, "ask"), "-", "+")
        assert [Position.parse(entry[0]) for entry in written] == [
            Position(1, seq) for seq in range(frames)
        ]


def test_an_idle_worker_notices_that_the_store_was_emptied(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing to commit, so no commit of its own can be refused."""
    monkeypatch.setattr(stage_loop, "CHECK_S", 0.0)  # the read that waits ends after 5 s
    pass_all(bench, "one")
    bench.until(bench.reads)
    bench.link.call("FLUSHALL")
    error = bench.ended()
    assert isinstance(error, StoreRefused)
    assert "it was emptied or replaced; nothing was restarted, start a new run" in str(error)


def test_a_source_that_another_worker_takes_is_left_and_the_others_continue(bench: Bench) -> None:
    pass_all(bench, "one", "two")
    bench.take_over("one")
    bench.decode("one")
    bench.questions.answer("one", Position(1, 2 * FRAMES))
    bench.until(lambda: bench.runner.fenced == {"one"})
    pass_all(bench, "two")
    assert bench.at("one") == Position(1, FRAMES - 1), "the other worker commits these"
    assert bench.runner.sources.keys() == {"two", "camera"}


def test_a_worker_without_work_learns_that_others_took_all_its_sources(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_loop, "CHECK_S", 0.0)
    pass_all(bench, "one", "two", "camera")
    for source in ("one", "two", "camera"):
        bench.take_over(source)
    assert isinstance(bench.ended(), Fenced)


def test_a_worker_without_sources_waits_for_some(bench: Bench) -> None:
    pass_all(bench, "one")
    bench.serve()
    bench.until(lambda: not bench.runner.sources)
    bench.serve("one", "two")
    pass_all(bench, "one", "two")
    assert bench.runner.sources.keys() == {"one", "two"}


def test_times_of_another_boot_are_replaced(bench: Bench) -> None:
    """A host that started again counts its monotonic time from 0."""
    bench.decode("one", arrived=time.monotonic() + 1e6)
    bench.questions.answer("one", Position(1, FRAMES))
    bench.until(lambda: bench.at("one") == Position(1, FRAMES - 1))
    for entry in bench.link.call("XRANGE", keys.out("one", "ask"), "-", "+"):
        record = records.decode_record(entry[1][3])
        assert 0.0 <= record.arrived <= time.monotonic()
        assert 0 <= record.taken_us < 1e9
