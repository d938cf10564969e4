"""Collect: which frames are due, what is kept of them, and that no fault of it harms a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from framegate.models.boxes import Boxes
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import End, Position, Record
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.promise.period import Promise
from framegate.stages.detections import Detections, Heard
from framegate.stages.footage import collect as collecting
from framegate.stages.footage.collect import (
    Collect,
    CollectOptions,
    CollectState,
    after,
    gap_s,
    is_due,
    share_of,
)
from framegate.stages.footage.footage import read_footage
from framegate.stages.footage.kept_pictures import Keeper, KeptFrame, kept_frames, read_picture
from tests.support.footage import scene
from tests.support.host_clocks import SimulatedHost
from tests.support.told_place import NEW, SEES_PERSON, ToldPlace, escalate, frame, run

SIZE = (96, 64)
SURE = Object(1, "car", 2, 0.9, (1.0, 2.0, 9.0, 14.0), "detected")
UNSURE = msgspec.structs.replace(SURE, score=0.45)
CALM = Detections("detected", "whole", "every_frame", (SURE,), ("light@1",))
NOW = 1_800_000_000.0


@contextmanager
def pixels(item: Item) -> Iterator[memoryview]:
    """The scene at the record's number; of a negative one they are gone."""
    if item.record.number < 0:
        raise FrameLost("gone")
    planes = scene(item.record.number, SIZE)
    yield memoryview(b"".join(plane.tobytes() for plane in planes))


def collect(folder: Path, live: bool = True, **options: Any) -> Collect:
    clock = iter(range(1 << 30))
    context = context_alone(
        pixels, lambda: NOW + next(clock) / 100, folder, "detect", live=lambda _: live
    )
    return Collect(CollectOptions(**options), context)


def item(seq: int, at: float, found: Detections = CALM, source: str = "gate", **more: Any) -> Item:
    said = {"detect": msgspec.Raw(records.encode(found))}
    known = {"v": 1, "pts": at, "captured": NOW + at, "arrived": at, "number": 4 * seq}
    return Item(source, Position(1, seq), Record(form=Form(*SIZE), said=said, **(known | more)))


def fed(stage: Collect, items: list[Item], state: CollectState | None = None) -> CollectState:
    """The state after these frames of one source, through the store each time."""
    state = CollectState() if state is None else state
    for one in items:
        outputs, states = stage.process([one], {one.source: state})
        assert outputs == [None]
        state = records.decode(records.encode(states[one.source]), CollectState)
    return state


def kept(folder: Path, source: str = "gate") -> list[KeptFrame]:
    found = kept_frames(folder).get(source)
    return [] if found is None else [file.record for file in found.files]


def test_gaps_grow_with_what_has_passed() -> None:
    assert [gap_s(s) for s in (0, 600, 3600, 60_000, 10_000_000)] == [3, 3, 18, 300, 300]
    at, n = 0.0, 0
    state = CollectState()
    while at < 86400.0:
        if is_due(state, "even", at):
            state, n = after(state, ["even"], "gate", Position(1, int(at)), at), n + 1
        at += 0.5
    assert 1150 < n < 1250  # 200 in ten minutes, 200 ln(100) until 17 hours, then 12 an hour


def test_draws_are_the_same_for_all_and_of_no_pattern() -> None:
    drawn = [share_of("even", "gate", Position(1, seq)) for seq in range(10_000)]
    assert drawn == [share_of("even", "gate", Position(1, seq)) for seq in range(10_000)]
    assert abs(np.mean(drawn) - 0.5) < 5 * (1 / 12 / 10_000) ** 0.5
    assert drawn != [share_of("even", "door", Position(1, seq)) for seq in range(10_000)]


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    state = after(CollectState(), ["even"], "gate", Position(1, 0), 1_000_000.0)
    assert not is_due(state, "even", 1_000_000.5)
    assert is_due(state, "even", 50.0)


def test_evenly_spaced_frames_of_a_camera_are_kept(tmp_path: Path) -> None:
    fed(collect(tmp_path), [item(seq, seq / 10) for seq in range(600)])
    found = kept(tmp_path)
    at = [record.moment_s - NOW for record in found]
    assert {record.why for record in found} == {"even"}
    assert 60 / 4.5 <= len(found) <= 60 / 1.5
    assert min(np.diff(at)) > 1.4
    assert max(np.diff(at)) < 2 * 4.7  # now and then nothing moved
    assert found[3].served[0].label == "car"
    assert found[3].served_by == ("light@1",)
    for file in kept_frames(tmp_path)["gate"].files[:3]:
        was = scene(4 * file.record.seq, SIZE)[0]
        assert np.abs(read_picture(file).y.astype(int) - was.astype(int)).mean() < 2


def test_the_time_of_a_file_is_its_own(tmp_path: Path) -> None:
    fed(collect(tmp_path, live=False), [item(seq, seq / 10) for seq in range(50)])
    assert next(record.moment_s for record in kept(tmp_path)) == 0.0


def test_where_nothing_moves_one_frame_is_kept(tmp_path: Path) -> None:
    stage = collect(tmp_path)
    fed(stage, [item(seq, seq, number=7) for seq in range(60)])
    assert len(kept(tmp_path)) == 1
    assert stage.footage is not None
    assert stage.footage.kept == {"even": 1}
    assert stage.footage.dropped["same"] > 10
    again = collect(tmp_path)  # a worker's successor knows the last picture
    fed(again, [item(seq, seq, number=7) for seq in range(60, 80)])
    assert len(kept(tmp_path)) == 1


def test_doubt_and_another_scene_are_worth_a_frame(tmp_path: Path) -> None:
    doubtful = msgspec.structs.replace(CALM, objects=(UNSURE,))
    other = msgspec.structs.replace(CALM, scene=1)
    items = [item(seq, seq / 10, doubtful) for seq in range(300)]
    items += [item(seq, seq / 10, other) for seq in range(300, 600)]
    fed(collect(tmp_path), items)
    whys = Counter(record.why for record in kept(tmp_path))
    assert whys["change"] == 1
    assert whys["doubt"] > 1
    assert whys["even"] > 5
    assert min(np.diff([record.moment_s for record in kept(tmp_path)])) >= 0.99


def test_what_the_heavy_pass_said_is_kept_with_its_frame(tmp_path: Path) -> None:
    asked = msgspec.structs.replace(CALM, heard=Heard(own=SEES_PERSON))
    fed(collect(tmp_path), [item(0, 0.0, asked)])
    [record] = kept(tmp_path)
    assert record.why == "heavy"
    assert record.heavy_models == ("heavy@1",)
    assert record.heavy is not None
    assert [(one.label, one.score, one.box) for one in record.heavy] == [
        ("person", 0.8, (1.0, 2.0, 9.0, 14.0))
    ]
    [read] = read_footage([str(tmp_path)])
    assert read.known is not None
    assert (read.known.labels, read.known.by_people) == (("person",), False)
    assert isinstance(read.known.sure, Boxes)
    assert read.known.sure.xyxy.tolist() == [[1.0, 2.0, 9.0, 14.0]]
    assert read.moment_s == NOW


def test_an_audit_is_waited_for(tmp_path: Path) -> None:
    stage = collect(tmp_path)
    drawn = msgspec.structs.replace(CALM, heard=Heard(is_drawn=True))
    told = msgspec.structs.replace(CALM, heard=Heard(audited=((Position(1, 0), SEES_PERSON),)))
    state = fed(stage, [item(0, 0.0, drawn), item(1, 0.1)])
    assert kept(tmp_path) == []
    fed(stage, [item(2, 0.2, told)], state)
    [record] = kept(tmp_path)
    assert (record.seq, record.why, len(record.heavy or ())) == (0, "audit", 1)


def test_an_audit_that_is_not_over_at_the_end_is_not_waited_for(tmp_path: Path) -> None:
    stage = collect(tmp_path)
    drawn = msgspec.structs.replace(CALM, heard=Heard(is_drawn=True))
    state = fed(stage, [item(0, 0.0, drawn)])
    stage.end("gate", End(1, frames=1, last=True), state)
    assert [(record.why, record.heavy) for record in kept(tmp_path)] == [("audit", None)]
    for seq in range(1, 30):
        state = fed(stage, [item(seq, 10.0 * seq, drawn)], state)
    assert len(kept(tmp_path)) == 1 + 29 - 8
    stage.close()
    assert len(kept(tmp_path)) == 30


def test_only_named_sources_are_kept_and_masks_are_grey(tmp_path: Path) -> None:
    masks = {"gate": [[[0, 0], [96, 0], [96, 32], [0, 32]]]}
    stage = collect(tmp_path, sources=("gate",), masks=masks)
    fed(stage, [item(0, 0.0), item(1, 50.0)])
    fed(stage, [item(0, 0.0, source="door")])
    assert list(kept_frames(tmp_path)) == ["gate"]
    for file in kept_frames(tmp_path)["gate"].files:
        assert np.abs(read_picture(file).y[:24].astype(int) - 128).max() <= 2


def test_lost_pixels_and_failed_frames_are_passed_over(tmp_path: Path) -> None:
    stage = collect(tmp_path)
    fed(stage, [item(0, 0.0, number=-1), item(1, 9.0, failed="frame_lost"), item(2, 50.0)])
    assert [record.seq for record in kept(tmp_path)] == [2]
    assert stage.footage is not None
    assert stage.footage.dropped == {"lost": 1}


def test_a_disk_that_takes_nothing_is_told_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "footage").write_text("in the way", encoding="utf-8")
    stage = collect(tmp_path)
    state = fed(stage, [item(seq, 10.0 * seq) for seq in range(5)])
    assert stage.footage is not None
    assert stage.footage.dropped == {"unwritable": 5}
    (tmp_path / "footage").unlink()
    fed(stage, [item(seq, 10.0 * seq) for seq in range(5, 8)], state)
    assert stage.footage.kept == {"even": 3}
    told = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert len(told) == 2
    assert "footage of gate" in told[0]
    assert "frames are kept again" in told[1]


def test_a_frame_that_could_not_be_written_drops_no_equal_one(tmp_path: Path) -> None:
    (tmp_path / "footage").write_text("in the way", encoding="utf-8")
    stage = collect(tmp_path)
    state = fed(stage, [item(0, 0.0, number=0)])
    (tmp_path / "footage").unlink()
    fed(stage, [item(1, 10.0, number=0)], state)
    assert [record.seq for record in kept(tmp_path)] == [1]


def test_never_more_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimulatedHost(NOW)  # frames are thinned by the time at which they were kept
    monkeypatch.setattr(collecting, "Keeper", partial(Keeper, clock=host))
    stage = collect(tmp_path, bytes=20_000)
    state = None
    for seq in range(60):
        host.passes(10.0)
        state = fed(stage, [item(seq, 10.0 * seq)], state)
    files = kept_frames(tmp_path)["gate"].files
    assert sum(file.path.stat().st_size for file in files) <= 20_000
    assert stage.footage is not None
    assert stage.footage.removed == 60 - len(files)
    assert stage.footage.nbytes == sum(file.nbytes for file in files)
    at = [file.record.moment_s - NOW for file in files]
    assert at[0] == 0.0
    assert at[-1] == 590.0
    assert max(np.diff(at)) <= 4 * 590 / len(at)


# -- What escalate tells.


def test_escalate_tells_what_it_heard_only_where_somebody_learns(tmp_path: Path) -> None:
    promise = Promise("counts", alpha=0.3, confidence=0.6, frames=40, audited=0.5)
    items = [frame(seq) for seq in range(40)]
    results = []
    for tells in (False, True):
        stage = escalate(
            tmp_path, ToldPlace(lambda _: SEES_PERSON), promise, tells=tells, doubt=0.1
        )
        said, states = run(stage, items, NEW)
        stage.close()
        results.append((said, states))
    (silent, before), (telling, states) = results
    assert states == before
    assert all(one is not None and one.heard is None for one in silent)
    assert [msgspec.structs.replace(one, heard=None) for one in telling if one] == silent
    heard = [one.heard for one in telling if one is not None and one.heard is not None]
    drawn = {frame.position for frame, one in zip(items, telling, strict=True)
             if one is not None and one.heard is not None and one.heard.is_drawn}  # fmt: skip
    audited = {position for one in heard for position, _ in one.audited}
    assert drawn
    assert audited <= drawn
    assert {one.own for one in heard} <= {None, SEES_PERSON}
