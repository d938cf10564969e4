"""The index of recordings: pins, what goes when, and that nothing goes that it does not know."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts.episodes import Change, Clip
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording import retention
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.clips import pin_clips, recorded_clips
from framegate.pipeline.recording.index import Index, Segment, clip_pins
from framegate.pipeline.recording.index_tables import FOLDER, NAME, IndexReplaced
from framegate.pipeline.recording.recorder_states import OPEN, RecordedLoss, RecordingGap
from framegate.pipeline.recording.retention import free_bytes, trim
from framegate.pipeline.recording.segment_writer import Recording
from tests.support.host_clocks import SimulatedHost
from tests.support.recorded import (
    EACH,
    WIDE,
    add_segment,
    as_files_say,
    record,
    segments,
    split,
    write_both,
)

DAY_S = 86400.0
NOW = 1.8e9


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost(NOW)


@pytest.fixture
def index(tmp_path: Path, host: SimulatedHost) -> Iterator[Index]:
    opened = Index(tmp_path, read_clock=host)
    yield opened
    opened.close()


def add(
    index: Index, n: int, source: str = "gate", is_key: bool = True, captured: float | None = None
) -> Segment:
    """A segment of four seconds, the `n`-th of its source, with a file of EACH bytes. captured: by
    its camera's clock, where that is not 4 `n` seconds after NOW.
    """
    at = NOW + 4.0 * n if captured is None else captured
    return add_segment(index, source, n, at, is_key)


def numbers(index: Index) -> list[int]:
    return [int(one.path[-10:-4]) for one in index.between("gate", 0.0, 1e12)]


def limited(nbytes: int = 1 << 30, days: float = 7.0, free: int = 1) -> RecordSpec:
    return RecordSpec(bytes=nbytes, days=days, pinned_days=30.0, free_bytes=free)


def test_the_oldest_go_first_then_what_detections_pin_then_what_alerts_pin(index: Index) -> None:
    for n in range(10):
        add(index, n)
    index.pin("gate", NOW + 1, NOW + 6, "one", "alert")  # 0 and 1
    index.pin("gate", NOW + 9, NOW + 11, "two", "detection")  # 2
    left = []
    for room in range(0, 10 * EACH, EACH):
        assert trim(index, limited(10 * EACH), "gate", room)
        assert index.nbytes() == {"gate": 10 * EACH - room}
        left.append(numbers(index))
    gone = [n for a, b in itertools.pairwise(left) for n in {*a} - {*b}]
    assert gone == [3, 4, 5, 6, 7, 8, 9, 2, 0]
    there = {path.name for path in (index.folder / "gate/1/day").iterdir()}
    assert there == {"000001.mp4"}
    (told,) = index.trims()
    assert (told.cause, told.segments, told.nbytes) == ("bytes", 9, 9 * EACH)
    assert told.until == NOW + 40


def test_age_takes_clips_later(index: Index, host: SimulatedHost) -> None:
    for n in range(4):
        add(index, n)
    index.pin("gate", NOW + 5, NOW + 6, "one", "detection")
    host.passes(2 * DAY_S)
    assert trim(index, limited(days=1.0), "gate", 0)
    assert numbers(index) == [1]
    host.passes(29 * DAY_S)
    assert trim(index, limited(days=1.0), "gate", 0)
    assert numbers(index) == []
    assert [told.cause for told in index.trims()] == ["age"]


def test_a_segment_keeps_its_number_while_older_ones_go(index: Index) -> None:
    """Players of a growing playlist find their place by it."""
    for n in range(4):
        add(index, n)
    first, _, third, last = index.between("gate", 0.0, 1e12)
    assert [index.number(each) for each in (first, third, last)] == [0, 2, 3]
    assert trim(index, limited(2 * EACH), "gate", 0)
    assert [index.number(each) for each in (third, last)] == [2, 3]


def test_clips_go_no_sooner_than_the_rest(index: Index, host: SimulatedHost) -> None:
    for n in range(4):
        add(index, n)
    index.pin("gate", NOW + 5, NOW + 6, "one", "detection")
    host.passes(59 * DAY_S)
    assert trim(index, limited(days=60.0), "gate", 0)
    assert numbers(index) == [0, 1, 2, 3]
    host.passes(2 * DAY_S)
    assert trim(index, limited(days=60.0), "gate", 0)
    assert numbers(index) == []


def test_a_disk_that_frees_no_space_costs_only_the_bytes_it_lacks(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with snapshots, or a player that has the files open."""
    free = 10 * EACH
    monkeypatch.setattr(retention, "free_bytes", lambda _: free)
    for n in range(20):
        add(index, n)
    for _ in range(5):
        assert not trim(index, limited(free=12 * EACH), "gate", EACH // 2)
        assert numbers(index) == [*range(3, 20)]
    monkeypatch.setattr(retention, "_waits_until", {})  # a minute later
    assert not trim(index, limited(free=12 * EACH), "gate", EACH // 2)
    assert numbers(index) == [*range(6, 20)]
    free = 13 * EACH
    assert trim(index, limited(free=12 * EACH), "gate", EACH // 2)
    assert numbers(index) == [*range(6, 20)]


def test_too_little_room_on_the_disk_takes_all_it_must_and_says_if_that_is_not_enough(
    index: Index,
) -> None:
    for n in range(4):
        add(index, n)
    assert not trim(index, limited(free=2 * free_bytes(index)), "gate", 0)
    assert numbers(index) == []
    assert [told.cause for told in index.trims()] == ["space"]


def test_a_pin_holds_for_what_is_still_to_come_and_is_moved_by_its_name(index: Index) -> None:
    index.pin("gate", NOW + 5, NOW + 50, "one", "detection")
    for n in range(4):
        add(index, n)
    assert [one.pinned for one in index.between("gate", 0, 1e12)] == [0, 1, 1, 1]
    index.pin("gate", NOW + 5, NOW + 7, "one", "alert")
    assert [one.pinned for one in index.between("gate", 0, 1e12)] == [0, 2, 0, 0]
    index.unpin("one")
    assert {one.pinned for one in index.between("gate", 0, 1e12)} == {0}
    assert index.pins() == []


def test_a_pin_holds_what_its_begin_needs_to_be_shown(index: Index) -> None:
    for n in range(6):
        add(index, n, is_key=n in (0, 2))
    index.pin("gate", NOW + 17, NOW + 18, "one", "alert")
    assert [one.pinned for one in index.between("gate", 0, 1e12)] == [0, 0, 2, 2, 2, 0]
    assert numbers_between(index, NOW + 17, NOW + 18) == [2, 3, 4]


def numbers_between(index: Index, since: float, until: float) -> list[int]:
    return [int(one.path[-10:-4]) for one in index.between("gate", since, until)]


def test_an_episode_pins_its_clip_and_an_open_one_what_may_come(index: Index) -> None:
    for n in range(10):
        add(index, n)
    began, last = (Moment(1, 0, at, NOW + at) for at in (10.0, 20.0))
    change = Change(
        1, "gate/r/1-0/0", "start", "gate", "r", "v", "inside", "alert", last, began, last,
        clip=Clip(3.0, 1.0),
    )  # fmt: skip
    data = index.folder.parent
    without_clip = msgspec.structs.replace(change, clip=None, episode="another")
    pin_clips(data, clip_pins([change, without_clip]))
    assert [one.pinned for one in index.between("gate", 0, 1e12)] == [0] + 9 * [2]
    pin_clips(data, clip_pins([msgspec.structs.replace(change, step="end")]))
    pin_clips(data / "without", clip_pins([change]))
    assert not (data / "without").exists()
    assert [one.pinned for one in index.between("gate", 0, 1e12)] == [0, 2, 2, 2, 2, 2, 0, 0, 0, 0]
    assert [pin.why for pin in index.pins()] == ["gate/r/1-0/0"]


def test_pins_are_found_again_where_the_index_is_gone(tmp_path: Path) -> None:
    held = record(tmp_path, write_both(tmp_path / "gate.mp4", 10.0))
    index = Index(tmp_path)
    index.pin("gate", held[1].captured, held[1].captured_end, "gate/r/1-0/0", "alert")
    pins, recorded = index.pins(), index.recorded()
    rows = index.between("gate", 0.0, 1e12)
    assert any(one.pinned for one in rows)
    index.close()
    for name in (NAME, f"{NAME}-wal", f"{NAME}-shm"):
        (tmp_path / FOLDER / name).unlink(missing_ok=True)
    again = Index(tmp_path)
    assert again.pins() == pins
    assert rebuild(again) == len(held)
    assert as_files_say(again.between("gate", 0.0, 1e12)) == as_files_say(rows)
    assert again.recorded() == recorded
    again.close()


def test_what_there_is_of_a_source_is_the_sum_of_its_rows(index: Index) -> None:
    for n in range(6):
        add(index, n)
        add(index, n, "yard")
    index.pin("gate", NOW + 5, NOW + 10, "one", "alert")
    for _ in range(3):
        oldest = index.oldest("gate")
        assert oldest is not None
        index.remove([oldest], "bytes")
    index.forget(index.written("yard").keys())
    (told,) = index.recorded()
    left = index.between("gate", 0.0, 1e12)
    assert (told.source, told.segments, told.sound) == ("gate", len(left), False)
    assert told.seconds == pytest.approx(sum(one.seconds for one in left))
    assert {"gate": told.nbytes} == index.nbytes()
    assert told.nbytes == sum(one.nbytes for one in left)
    assert told.pinned_bytes == sum(one.nbytes for one in left if one.pinned) == 2 * EACH
    assert (told.since, told.until) == (left[0].captured, left[-1].captured_end)


def test_how_a_recorder_stands_is_told_by_it(tmp_path: Path) -> None:
    (first, *_) = record(tmp_path, write_both(tmp_path / "gate.mp4", 5.0))
    init, (piece, *_) = split(tmp_path / FOLDER / first.path)
    index = Index(tmp_path)
    (ended,) = index.recorders.states()
    assert (ended.source, ended.path, ended.why) == ("gate", None, None)
    assert ended.most_bytes == WIDE.bytes
    for spec in (WIDE, limited(nbytes=1)):
        take = Recording(tmp_path, "yard", spec).take()
        take.begin(init, 0.0)
        take.fragment(piece, lambda _: NOW)
        _, stands = index.recorders.states()
        if spec is WIDE:
            assert (index.folder / str(stands.growing_file)).is_file()
            assert stands.why is None
        else:
            assert (stands.path, stands.most_bytes) == (None, 1)
            assert "disk is full" in (stands.why or "")
        take.close()
    index.close()


def test_what_was_lost_is_summed_by_why(index: Index) -> None:
    for since, until in ((0, 2), (5, 8), (10, 11)):
        index.recorders.note_gap(RecordingGap("yard", NOW + since, NOW + until, "disk_full"))
    assert index.recorders.losses(NOW + 3) == [RecordedLoss("yard", "disk_full", 2, 4.0, NOW + 11)]


def test_a_picture_is_found_by_what_its_result_says(index: Index) -> None:
    for n in range(4):
        add(index, n)
    found = index.place("gate", 1, 9.5)
    assert found is not None
    assert (found.segment.path, found.offset_s) == ("gate/1/day/000002.mp4", 1.5)
    assert index.place("gate", 1, 16.0) is None
    assert index.place("gate", 2, 9.5) is None


def test_what_nobody_knows_is_taken_in_and_never_deleted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    record(data, write_both(tmp_path / "a.mp4", 10.0))
    first, second, third = segments(data)
    folder = data / FOLDER
    for file in folder.glob(f"{NAME}*"):
        file.unlink()
    strange = (folder / first.path).with_name("notes.mp4")
    strange.write_bytes(b"no boxes")
    cut = folder / third.path
    os.rename(cut, f"{cut}{OPEN}")
    with open(f"{cut}{OPEN}", "r+b") as file:
        file.truncate(third.nbytes - 10)
    index = Index(data)
    assert rebuild(index) == 3
    held = segments(data)
    assert as_files_say(held[:2]) == as_files_say([first, second])
    assert held[2].nbytes < third.nbytes
    assert third.pts_end - held[2].pts_end <= 0.6
    assert strange.read_bytes() == b"no boxes"
    (folder / first.path).unlink()
    assert rebuild(index) == 0
    assert segments(data) == held[1:]
    index.close()


def test_never_more_bytes_than_allowed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = write_both(tmp_path / "a.mp4", 10.0)
    spec = msgspec.structs.replace(WIDE, bytes=(8 << 20) + 2 * file.stat().st_size)
    for epoch in range(1, 5):  # each asks for 8 MB of room, enough for any first segment
        record(data, file, spec=spec, epoch=epoch)
        files = sum(path.stat().st_size for path in (data / FOLDER).rglob("*.mp4"))
        assert files <= spec.bytes
    index = Index(data)
    assert index.nbytes() == {"gate": files}
    assert index.trims()[0].cause == "bytes"
    index.close()


def test_a_folder_without_recordings_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="a run records its cameras with"):
        Index(tmp_path, makes=False)
    assert not (tmp_path / FOLDER).exists()


def test_many_rows_cost_a_look_up_little(index: Index) -> None:
    made = add(index, 0)
    rows = [
        msgspec.structs.replace(
            made, path=f"gate/1/day/x{n}.mp4", captured=NOW + 4 * n, captured_end=NOW + 4 * n + 4,
            pts=4.0 * n, pts_end=4.0 * n + 4,
        )
        for n in range(1, 20_000)
    ]  # fmt: skip
    index.add(rows)
    began = time.process_time()
    for n in range(100):
        assert index.place("gate", 1, 700.0 * n + 1) is not None
    assert time.process_time() - began < 1.0  # about a thousandth of this is usual


def test_segments_are_found_by_their_key_frame_their_init_part_their_path_and_their_sound(
    index: Index,
) -> None:
    for n in range(40):
        add(index, n, is_key=n in (0, 20, 21))
    made = add(index, 40)
    sounding = msgspec.structs.replace(
        made, path="gate/1/day/sounding.mp4", pts=2.0, pts_end=3.0, init="b", sound=True
    )
    index.add([sounding])

    def key_number(since: float, until: float) -> int | None:
        found = index.key_segment("gate", NOW + since, NOW + until)
        return None if found is None else round(found.pts / 4)

    assert key_number(10.0, 90.0) == 20, "the first one from 10 s on"
    assert key_number(85.0, 100.0) == 21, "none comes, so the last one before"
    assert key_number(60.0, 70.0) == 0
    assert key_number(61.0, 70.0) is None, "it began more than a minute before"
    with_b = index.with_init("gate", "b")
    assert with_b is not None
    assert with_b.path == sounding.path
    assert index.with_init("gate", "c") is None
    last = index.last("gate", 1)
    assert last is not None
    assert last.path == made.path
    last_with_sound = index.last("gate", 1, sounding=True)
    assert last_with_sound is not None
    assert last_with_sound.path == sounding.path
    assert index.segment(made.path) == last
    assert index.segment("gate/1/day/none.mp4") is None


def test_only_segments_that_lie_within_a_range_are_within_it(index: Index) -> None:
    for n in range(4):
        add(index, n)
    inside = [round(each.pts / 4) for each in index.within("gate", NOW + 3.0, NOW + 12.0)]
    assert inside == [1, 2]


def test_sums_and_marks_are_computed_again_from_the_rows(index: Index) -> None:
    for n in range(4):
        add(index, n)
    index.pin("gate", NOW + 5, NOW + 6, "one", "alert")
    before = index.recorded(), index.all_segments()
    with closing(sqlite3.connect(index.folder / NAME)) as other, other:
        other.execute("UPDATE segment SET pinned = 1")
        other.execute("UPDATE kept SET bytes = 7, segments = 9")
    assert (index.recorded(), index.all_segments()) != before
    index.recount()
    assert (index.recorded(), index.all_segments()) == before


def test_a_change_without_a_clip_pins_nothing(index: Index) -> None:
    add(index, 0)
    moment = Moment(1, 0, 1.0, NOW + 1.0)
    change = Change(
        1, "gate/r/1-0/0", "end", "gate", "r", "v", "inside", "alert", moment, moment, moment
    )
    assert clip_pins([change]) == []
    assert index.pins() == []
    index.unpin("gate/r/1-0/0")


def test_clips_wait_for_an_index_that_cannot_be_read(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    """Episodes matter more than their clips, and a pin without a recording does no harm."""
    data = index.folder.parent
    add(index, 0)
    moment = Moment(1, 0, 1.0, NOW + 1.0)
    change = Change(
        1, "gate/r/1-0/0", "end", "gate", "r", "v", "inside", "alert", moment, moment, moment,
        clip=Clip(3.0, 1.0),
    )  # fmt: skip
    with closing(sqlite3.connect(index.folder / NAME)) as newer:
        newer.execute("PRAGMA user_version = 99")
    pins = clip_pins([change, msgspec.structs.replace(change, episode="another")])
    assert pin_clips(data, pins) == pins
    assert "clips of 2 changes of episodes are pinned later: " in caplog.text
    assert recorded_clips(data, pins) == pins
    refused = data / ("x" * 300)  # as for a failing disk, each call about it is an error
    assert pin_clips(refused, pins) == pins
    assert recorded_clips(refused, pins) == pins


def test_rows_that_were_added_to_a_replaced_index_are_reported_as_lost(index: Index) -> None:
    """Between the change and its end, another process moved the damaged files aside."""
    made = add(index, 0)

    def rows() -> Iterator[Segment]:
        yield made
        for name in (NAME, f"{NAME}-wal", f"{NAME}-shm"):
            (index.folder / name).unlink(missing_ok=True)

    with pytest.raises(IndexReplaced, match="it was replaced meanwhile"):
        index.add(rows())
    assert index.all_segments() == []
    index.add([made])
    assert [each.path for each in index.all_segments()] == [made.path]
    assert not index.is_whole, "other rows are missing, so the files are read again"
