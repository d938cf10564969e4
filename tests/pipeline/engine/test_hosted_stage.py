"""A stage in its worker: the outputs, states and failures that it gives become one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost, StageRefused
from framegate.pipeline.contracts.records import START, VERSION, End, FailReason, Position, Record
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import WAITS, Item, Stage
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.hosted_stage import HostedStage, by_arrival
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.stage_commit import PendingCommit
from framegate.pipeline.store.hop import END, FRAME, Attached, Commit

CAM, DOOR = "cam", "door"
Asides = Mapping[tuple[str, Position], FailReason]


class Frames(msgspec.Struct):
    """The numbers of the frames that a stage has counted."""

    counted: tuple[int, ...] = ()


@dataclass
class Orders:
    """The behaviour of the stage of a test, by frame number.

    calls  number of frames in each call of the stage
    """

    raises: dict[int, Exception] = field(default_factory=dict)
    outputs: dict[int, Any] = field(default_factory=dict)
    drops_last: bool = False
    state: Any = None
    end: Any = None
    calls: list[list[int]] = field(default_factory=list)


class Obeys(Stage[Frames]):
    """Counts frames in its state; its output is the number of the frame, unless ordered."""

    State = Frames
    pixels = 1
    orders: Orders

    def each(self, item: Item, state: Frames) -> tuple[Any, Frames]:
        number = item.record.number
        if number in self.orders.raises:
            raise self.orders.raises[number]
        output = self.orders.outputs.get(number, number)
        return output, self.orders.state or Frames((*state.counted, number))

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Frames]
    ) -> tuple[Sequence[Any], Mapping[str, Frames]]:
        self.orders.calls.append([item.record.number for item in batch])
        outputs, after = super().process(batch, states)
        if self.orders.drops_last and len(batch) > 1:
            outputs = outputs[:-1]
        return outputs, after

    def end(self, source: str, end: End, state: Frames) -> tuple[Any, Frames]:  # noqa: ARG002
        if isinstance(self.orders.end, Exception):
            raise self.orders.end
        return self.orders.end, Frames((*state.counted, -1))

    def away(self, source: str, end: End, state: Frames) -> tuple[Any, Frames]:  # noqa: ARG002
        return {"away_s": end.away_s, "epoch": end.epoch}, state


def frame(seq: int, **fields: Any) -> Arrival:
    record = Record(VERSION, 0.0, 0.0, 0.0, seq, Form(8, 8))
    return Arrival(Position(1, seq), msgspec.structs.replace(record, **fields))


def end_at(seq: int, away_s: float = 0.0) -> Arrival:
    return Arrival(Position(1, seq), End(VERSION, seq, last=False, away_s=away_s))


def hosted_stage(
    folder: Path, orders: Orders, asides: Asides | None = None, *, publishes: bool = False
) -> HostedStage:
    """A stage of the main path that serves two sources; another worker reads its outputs."""
    spec = StageSpec("obeys", "", "decode", main=True, reliable=True, publishes=publishes)
    stage = Obeys(None, context_alone(no_pixels, lambda: 0.0, folder, "decode"))
    stage.orders = orders
    hosted = HostedStage(spec, stage, keep=0, asides=asides or {})
    for source in (CAM, DOOR):
        hosted.attach(source, Attached(b"1", START, None, START))
    return hosted


def no_pixels(item: Item) -> Any:
    raise AssertionError(item)


def run(
    hosted: HostedStage, arrivals: Sequence[Arrival], is_patient: bool = False
) -> PendingCommit:
    """Run the stage on a batch of one source, and accept its commit."""
    pending = hosted.answer({CAM: list(arrivals)}, lambda *_: is_patient)[CAM]
    hosted.accept(CAM, pending)
    return pending


def seqs(arrivals: Sequence[Arrival]) -> list[int]:
    return [arrival.position.seq for arrival in arrivals]


def written(commit: Commit) -> list[tuple[int, Any]]:
    """The frames that a commit writes, each with the stage's output, or the reason of a failure."""
    frames = []
    for entry in commit.entries:
        assert entry.kind == FRAME
        record = records.decode_record(entry.data)
        output: Any = record.failed
        if "obeys" in record.said:
            output = msgspec.msgpack.decode(record.said["obeys"])
        frames.append((entry.position.seq, output))
    return frames


def state_of(hosted: HostedStage) -> tuple[int, ...]:
    state: Frames = hosted.checkpoints[CAM].state
    return state.counted


def test_a_bad_frame_is_set_aside_alone_and_the_others_keep_their_order(tmp_path: Path) -> None:
    orders = Orders(raises={1: ValueError("an odd frame")})
    hosted = hosted_stage(tmp_path, orders)
    first = run(hosted, [frame(seq) for seq in range(4)])
    assert orders.calls == [[0, 1, 2, 3], [0]]
    assert written(first.commit) == [(0, 0)]
    assert seqs(first.undone) == [1, 2, 3]

    second = run(hosted, first.undone)
    assert orders.calls[2:] == [[1], [2]]
    assert written(second.commit) == [(1, "stage_error"), (2, 2)]
    (aside,) = second.commit.asides
    assert (aside.stage, aside.position, aside.reason) == ("obeys", Position(1, 1), "stage_error")
    assert records.decode_record(aside.data).number == 1

    third = run(hosted, second.undone)
    run(hosted, [frame(4), frame(5)])
    assert written(third.commit) == [(3, 3)]
    assert orders.calls[3:] == [[2], [3], [4, 5]], "then frames run together again"
    assert state_of(hosted) == (0, 2, 3, 4, 5)


def test_a_frame_that_fails_in_one_source_costs_another_nothing(tmp_path: Path) -> None:
    orders = Orders(raises={7: ValueError("an odd frame")})
    hosted = hosted_stage(tmp_path, orders)
    batch = {CAM: [frame(7), frame(8)], DOOR: [frame(0), frame(1)]}
    pending = hosted.answer(batch, lambda *_: False)
    assert written(pending[CAM].commit) == [(7, "stage_error"), (8, 8)]
    assert written(pending[DOOR].commit) == [(0, 0)]
    hosted.accept(CAM, pending[CAM])
    hosted.accept(DOOR, pending[DOOR])
    again = hosted.answer({CAM: [frame(9)], DOOR: pending[DOOR].undone}, lambda *_: False)
    assert written(again[CAM].commit) == [(9, 9)]
    assert written(again[DOOR].commit) == [(1, 1)]


@pytest.mark.parametrize(
    "orders",
    [
        Orders(drops_last=True),
        Orders(outputs={1: object()}),
    ],
    ids=["too few outputs", "an output that msgpack cannot encode"],
)
def test_a_call_without_a_valid_output_for_each_frame_fails(tmp_path: Path, orders: Orders) -> None:
    hosted = hosted_stage(tmp_path, orders)
    assert written(run(hosted, [frame(0), frame(1)]).commit) == [(0, 0)]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"counted": 1}, "it must be a Frames"),
        (Frames((object(),)), "object"),  # type: ignore[arg-type]
    ],
)
def test_a_state_that_the_store_cannot_return_ends_the_run(
    tmp_path: Path, state: Any, message: str
) -> None:
    """No frame is to blame for it, so none is set aside."""
    hosted = hosted_stage(tmp_path, Orders(state=state))
    with pytest.raises(StageRefused, match=f"stage obeys: its state cannot be stored: .*{message}"):
        run(hosted, [frame(0)])


def test_pixels_of_a_file_are_awaited_and_those_of_a_camera_are_lost(tmp_path: Path) -> None:
    orders = Orders(raises={0: FrameLost("overwritten")})
    hosted = hosted_stage(tmp_path, orders)
    waiting = run(hosted, [frame(0), frame(1)], is_patient=True)
    assert waiting.lacks_pixels
    assert not waiting.has_progress
    assert seqs(waiting.undone) == [0, 1]

    lost = run(hosted, waiting.undone, is_patient=False)
    assert written(lost.commit) == [(0, "frame_lost"), (1, 1)]
    assert lost.commit.asides == (), "its bytes explain nothing"


def test_pixels_that_never_come_are_not_awaited(tmp_path: Path) -> None:
    hosted = hosted_stage(tmp_path, Orders(raises={0: FrameLost("not decoded", final=True)}))
    assert written(run(hosted, [frame(0)], is_patient=True).commit) == [(0, "frame_lost")]


def test_a_frame_that_waits_for_an_answer_holds_those_after_it(tmp_path: Path) -> None:
    orders = Orders(outputs={1: WAITS})
    hosted = hosted_stage(tmp_path, orders)
    first = run(hosted, [frame(0), frame(1), frame(2)])
    assert first.awaits
    assert written(first.commit) == [(0, 0)]
    orders.outputs.clear()
    assert written(run(hosted, first.undone).commit) == [(1, 1), (2, 2)]
    assert state_of(hosted) == (0, 1, 2)


def test_a_suspected_record_and_one_that_failed_before_are_not_given(tmp_path: Path) -> None:
    orders = Orders()
    hosted = hosted_stage(tmp_path, orders, {(CAM, Position(1, 1)): "worker_died"})
    arrivals = [frame(0), frame(1), frame(2, failed="stage_error"), frame(3, undecoded=True)]
    pending = run(hosted, arrivals)
    assert orders.calls == [[0]]
    assert written(pending.commit) == [
        (0, 0), (1, "worker_died"), (2, "stage_error"), (3, None)
    ]  # fmt: skip
    assert [aside.position.seq for aside in pending.commit.asides] == [1]


def test_a_frame_on_which_the_publishing_stage_fails_is_published_as_failed(tmp_path: Path) -> None:
    orders = Orders(raises={0: ValueError("an odd frame")})
    hosted = hosted_stage(tmp_path, orders, publishes=True)
    commit = run(hosted, [frame(0)]).commit
    (entry,) = commit.entries
    result = msgspec.msgpack.decode(entry.data, type=Result)
    assert (result.outcome, result.looked, result.reason) == ("failed", "no", "stage_error")
    assert (result.source, result.epoch, result.seq) == (CAM, 1, 0)
    counts = dict(commit.counts)
    assert (counts["published"], counts["failed"]) == (1, 1)
    assert [aside.reason for aside in commit.asides] == ["stage_error"]


@pytest.mark.parametrize("failure", [ValueError("an odd end"), object()])
def test_an_end_on_which_a_stage_fails_passes_without_an_output(
    tmp_path: Path, failure: object
) -> None:
    """A source whose end did not pass would never be finished. Its state stays as it was."""
    hosted = hosted_stage(tmp_path, Orders(end=failure))
    pending = run(hosted, [frame(0), end_at(1)])
    assert [entry.kind for entry in pending.commit.entries] == [FRAME, END]
    assert records.decode_versioned(pending.commit.entries[1].data, End).said == {}
    assert state_of(hosted) == (0,)


def test_a_suspected_end_passes_untried(tmp_path: Path) -> None:
    hosted = hosted_stage(tmp_path, Orders(), {(CAM, Position(1, 0)): "worker_died"})
    assert [entry.kind for entry in run(hosted, [end_at(0)]).commit.entries] == [END]
    assert state_of(hosted) == ()


def test_the_end_waits_for_an_answer_too(tmp_path: Path) -> None:
    orders = Orders(end=WAITS)
    hosted = hosted_stage(tmp_path, orders)
    first = run(hosted, [frame(0), end_at(1)])
    assert first.awaits
    assert seqs(first.undone) == [1]
    orders.end = "a last output"
    last = run(hosted, first.undone)
    said = records.decode_versioned(last.commit.entries[0].data, End).said
    assert msgspec.msgpack.decode(said["obeys"]) == "a last output"
    assert state_of(hosted) == (0, -1)


def test_a_camera_that_is_away_is_no_end(tmp_path: Path) -> None:
    hosted = hosted_stage(tmp_path, Orders())
    (entry,) = run(hosted, [end_at(3, away_s=9.0)]).commit.entries
    said = records.decode_versioned(entry.data, End).said
    assert msgspec.msgpack.decode(said["obeys"]) == {"away_s": 9.0, "epoch": 1}


def test_a_stage_continues_from_the_state_that_the_store_has(tmp_path: Path) -> None:
    hosted = hosted_stage(tmp_path, Orders())
    stored = run(hosted, [frame(0), frame(1)])
    other = hosted_stage(tmp_path, Orders())
    other.attach(CAM, Attached(b"2", stored.commit.last, stored.stored, START))
    assert state_of(other) == (0, 1)
    assert run(other, [frame(2)]).commit.fields == (("s", records.encode(Frames((0, 1, 2)))),)


def test_an_unchanged_state_is_not_written_again(tmp_path: Path) -> None:
    hosted = hosted_stage(tmp_path, Orders(state=Frames((9,))))
    assert [name for name, _ in run(hosted, [frame(0)]).commit.fields] == ["s"]
    assert run(hosted, [frame(1)]).commit.fields == ()


def test_items_of_all_sources_come_in_the_order_of_their_arrival() -> None:
    """A clock that goes back never reorders the frames of one source."""
    items = [
        Item(source, Position(1, seq), Record(VERSION, 0.0, 0.0, arrived, seq, Form(8, 8)))
        for source, seq, arrived in (
            (CAM, 0, 5.0), (CAM, 1, 1.0), (CAM, 2, 6.0), (DOOR, 0, 4.0), (DOOR, 1, 5.5)
        )
    ]  # fmt: skip
    ordered = [(item.source, item.position.seq) for item in by_arrival(items)]
    assert ordered == [(DOOR, 0), (CAM, 0), (CAM, 1), (DOOR, 1), (CAM, 2)]
