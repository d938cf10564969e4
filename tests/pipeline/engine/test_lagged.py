"""A side stage that may miss frames counts each that it missed, wherever in a batch the gap is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.records import START, VERSION, End, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import WAITS, Item, NoState, Stage
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.stage_commit import PendingCommit
from framegate.pipeline.store.hop import Attached

CAM = "cam"


class Says(Stage[NoState]):
    """Answers each frame but those from `until` on, which wait."""

    until = 1000

    def each(self, item: Item, state: NoState) -> tuple[Any, NoState]:
        return (item.position.seq if item.position.seq < self.until else WAITS), state


def frame(seq: int, epoch: int = 1, dropped: int = 0) -> Arrival:
    record = Record(VERSION, 0.0, 0.0, 0.0, seq, Form(8, 8), dropped=dropped)
    return Arrival(Position(epoch, seq), record)


def end(seq: int, dropped: int = 0) -> Arrival:
    return Arrival(Position(1, seq), End(VERSION, seq, last=False, dropped=dropped))


def side_stage(folder: Path, *, reads_side: bool = False, until: int = 1000) -> HostedStage:
    spec = StageSpec(
        name="side", use="", input="detect", main=False, reliable=False, publishes=False,
        reads_side=reads_side,
    )  # fmt: skip
    stage = Says(None, context_alone(no_pixels, lambda: 0.0, folder, "detect"))
    stage.until = until
    hosted = HostedStage(spec, stage, keep=0, asides={})
    hosted.attach(CAM, Attached(b"1", START, None, START))
    return hosted


def no_pixels(item: Item) -> Any:
    raise AssertionError(item)


def answered(hosted: HostedStage, arrivals: Sequence[Arrival]) -> PendingCommit:
    return hosted.answer({CAM: list(arrivals)}, lambda *_: False)[CAM]


def lagged(pending: PendingCommit) -> int:
    return dict(pending.commit.counts).get("lagged:side", 0)


@pytest.mark.parametrize(
    ("arrivals", "missed"),
    [
        ([frame(0), frame(1), frame(2)], 0),
        ([frame(5), frame(6)], 5),
        ([frame(0), frame(1), frame(9)], 7),  # the entries 2 to 8 were removed before it read on
        ([frame(2), frame(5), frame(9)], 7),
        ([frame(0), frame(4, dropped=3)], 0),
        ([frame(0), frame(6, dropped=3)], 2),
        ([frame(0), frame(2, epoch=2), frame(4, epoch=2)], 3),
        ([frame(0), end(4)], 3),
        ([frame(0), end(4, dropped=3)], 0),
    ],
)
def test_each_missed_frame_is_counted(tmp_path: Path, arrivals: list[Arrival], missed: int) -> None:
    assert lagged(answered(side_stage(tmp_path), arrivals)) == missed


def test_a_gap_behind_a_frame_that_waits_is_counted_when_it_is_passed(tmp_path: Path) -> None:
    hosted = side_stage(tmp_path, until=3)
    first = answered(hosted, [frame(0), frame(2), frame(3), frame(9)])
    assert [arrival.position.seq for arrival in first.undone] == [3, 9]
    assert lagged(first) == 1
    hosted.accept(CAM, first)
    hosted.stage.until = 1000  # type: ignore[attr-defined]
    assert lagged(answered(hosted, first.undone)) == 5


def test_the_end_of_a_side_stage_shows_no_missed_frame(tmp_path: Path) -> None:
    """Its stream has entries for some frames only, and an end does not name the one before it."""
    hosted = side_stage(tmp_path, reads_side=True)
    assert lagged(answered(hosted, [frame(5, dropped=5), end(9)])) == 0
    assert lagged(answered(hosted, [frame(5, dropped=3)])) == 2
