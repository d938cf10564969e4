"""What stages of one process tell each other is stored only where somebody may still read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.records import START, VERSION, End, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import SourceSpec, StageSpec, WorkerSpec
from framegate.pipeline.contracts.stage import WAITS, Item, NoState, Stage
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.runner import Runner
from framegate.pipeline.store.hop import Attached, Entry

FRAMES = 4
CAM = "cam"


class Says(Stage[NoState]):
    """Has an answer for frames before `until`."""

    until = FRAMES

    def each(self, item: Item, state: NoState) -> tuple[Any, NoState]:
        return (item.position.seq if item.position.seq < self.until else WAITS), state


def stage_spec(name: str, reads: str, *, main: bool = True, followed: bool = False) -> StageSpec:
    return StageSpec(
        name=name, use="", input=reads, main=main, reliable=main, publishes=False, followed=followed
    )


DECODE = StageSpec("decode", "", None, main=True, reliable=True, publishes=False)
FIRST, LAST = stage_spec("first", "decode"), stage_spec("last", "first")


@contextmanager
def a_runner(folder: Path, stages: Sequence[StageSpec], until: int = FRAMES) -> Iterator[Runner]:
    """It hosts first and last, and last answers frames before `until`."""
    source = SourceSpec("x", name=CAM, past=0, credit=32, slots=32, pace="fast")
    names = ["first", "last"]
    spec = WorkerSpec("one", "run", "", str(folder), 100, list(stages), names, [source])
    hosted = []
    for name in names:
        said = Says(None, context_alone(no_pixels, lambda: 0.0, folder, "decode"))
        said.until = until if name == "last" else FRAMES
        hosted.append(HostedStage(spec.stage(name), said, keep=0, asides={}))
        hosted[-1].attach(CAM, Attached(b"1", START, None, START))
    ours, theirs = control_messages.make_pair()
    try:
        yield Runner(spec, hosted, ControlLine(theirs), lambda sources: None)  # noqa: ARG005
    finally:
        ours.close()


def no_pixels(item: Item) -> Any:
    raise AssertionError(item)


def frames(first: int, last: int) -> list[Arrival]:
    return [
        Arrival(Position(1, seq), Record(VERSION, 0.0, 0.0, 0.0, seq, Form(8, 8)))
        for seq in range(first, last)
    ]


def stored(runner: Runner) -> dict[str, list[tuple[int, str]]]:
    """What a turn stores in streams: frames and ends, by stage."""
    return {
        stage.spec.name: [seen(entry) for entry in said.commit.entries]
        for stage, said in runner.step().get(CAM, [])
    }


def seen(entry: Entry) -> tuple[int, str]:
    return entry.position.seq, entry.kind


ALL = [(seq, "frame") for seq in range(FRAMES)]


def test_frames_that_go_through_all_leave_the_last_ones_words_only(tmp_path: Path) -> None:
    with a_runner(tmp_path, [DECODE, FIRST, LAST]) as runner:
        runner.put("first", CAM, frames(0, FRAMES))
        assert stored(runner) == {"first": [], "last": ALL}


def test_a_frame_that_waits_is_stored_for_whoever_goes_on(tmp_path: Path) -> None:
    with a_runner(tmp_path, [DECODE, FIRST, LAST], until=2) as runner:
        runner.put("first", CAM, frames(0, FRAMES))
        assert stored(runner) == {"first": ALL[2:], "last": ALL[:2]}


def test_a_frame_is_stored_where_the_last_stage_does_nothing(tmp_path: Path) -> None:
    with a_runner(tmp_path, [DECODE, FIRST, LAST], until=0) as runner:
        runner.put("first", CAM, frames(0, FRAMES))
        assert stored(runner) == {"first": ALL}


def test_an_end_is_always_stored(tmp_path: Path) -> None:
    with a_runner(tmp_path, [DECODE, FIRST, LAST]) as runner:
        end = Arrival(Position(1, FRAMES), End(VERSION, FRAMES, last=True))
        runner.put("first", CAM, [*frames(0, FRAMES), end])
        ended = (FRAMES, "end")
        assert stored(runner) == {"first": [ended], "last": [*ALL, ended]}


@pytest.mark.parametrize(
    "stages",
    [
        [DECODE, FIRST, LAST, stage_spec("beside", "first", main=False)],
        [DECODE, stage_spec("first", "decode", followed=True), LAST],
    ],
    ids=["a stage beside reads it", "programs may follow it"],
)
def test_what_others_read_is_stored(tmp_path: Path, stages: list[StageSpec]) -> None:
    with a_runner(tmp_path, stages) as runner:
        runner.put("first", CAM, frames(0, FRAMES))
        assert stored(runner) == {"first": ALL, "last": ALL}
