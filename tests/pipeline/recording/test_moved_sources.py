"""Recordings of a source that another slot of a fleet serves now: its last file, and its clips."""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from pathlib import Path

import msgspec

from framegate.pipeline.contracts.episodes import Change, Clip
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.recording.adopt_files import finish_left_files
from framegate.pipeline.recording.clips import recorded_clips
from framegate.pipeline.recording.index import Index, clip_pins
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.recorder_states import OPEN, RecorderState
from tests.support.recorded import add_segment, as_files_say, record, segments, write_both

NOW = 1.8e9


def change(source: str, began: float, last: float) -> Change:
    """An end of an episode with a clip that begins 3 s before it and ends 1 s after it."""
    first, end = (Moment(1, 0, at, NOW + at) for at in (began, last))
    return Change(
        1, f"{source}/r/1-0/0", "end", source, "r", "v", "inside", "alert", end, first, end,
        clip=Clip(3.0, 1.0),
    )  # fmt: skip


def test_the_last_file_of_a_killed_recorder_is_finished_though_its_source_has_moved(
    tmp_path: Path,
) -> None:
    record(tmp_path, write_both(tmp_path / "a.mp4", 10.0))
    *before, last = segments(tmp_path)
    finished = tmp_path / FOLDER / last.path
    unfinished = Path(f"{finished}{OPEN}")
    with closing(Index(tmp_path)) as index:
        os.rename(finished, unfinished)
        index.forget([last.path])
        index.recorders.note(RecorderState("gate", NOW, last.path, None, 1 << 30))
        with unfinished.open("rb") as file:  # a recorder that is alive has this lock
            fcntl.flock(file, fcntl.LOCK_EX)
            finish_left_files(index)
            assert segments(tmp_path) == before
        finish_left_files(index)
        assert as_files_say(segments(tmp_path)) == as_files_say([*before, last])
        assert not unfinished.exists()
        finish_left_files(index)
        assert len(segments(tmp_path)) == len(before) + 1


def test_a_file_without_a_whole_picture_stays_as_it_is(tmp_path: Path) -> None:
    with closing(Index(tmp_path)) as index:
        path = index.folder / f"gate/1/day/000000.mp4{OPEN}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no boxes")
        index.recorders.note(RecorderState("gate", NOW, "gate/1/day/000000.mp4", None, 1 << 30))
        finish_left_files(index)
        assert path.read_bytes() == b"no boxes"


def test_clips_are_pinned_where_a_part_of_them_is_recorded(tmp_path: Path) -> None:
    with closing(Index(tmp_path)) as index:
        add_segment(index, "gate", 0, NOW)  # 0 to 4 s
        hall = index.folder / f"hall/1/day/000000.mp4{OPEN}"
        hall.parent.mkdir(parents=True)
        hall.write_bytes(b"growing")
        for source, path in (("hall", "hall/1/day/000000.mp4"), ("yard", None)):
            index.recorders.note(RecorderState(source, NOW, path, None, 1 << 30))
    reaches_back = change("gate", 6.5, 20.0)
    begins_later = change("gate", 7.5, 20.0)
    unfinished = change("hall", 100.0, 101.0)
    elsewhere = change("yard", 0.0, 4.0)
    without_clip = msgspec.structs.replace(change("gate", 0.0, 4.0), clip=None)
    changes = [reaches_back, begins_later, unfinished, elsewhere, without_clip]
    pins = clip_pins(changes)
    assert recorded_clips(tmp_path, pins) == clip_pins([reaches_back, unfinished])
    assert recorded_clips(tmp_path / "nothing", pins) == []


def test_a_file_of_one_picture_is_marked_by_the_pin_that_was_there_before_it(
    tmp_path: Path,
) -> None:
    """Its end is its begin: the camera hung up after one picture."""
    with closing(Index(tmp_path)) as index:
        made = add_segment(index, "gate", 0, NOW)
        index.pin("gate", NOW + 5, NOW + 20, "gate/r/1-0/0", "alert")
        at = NOW + 10
        short = msgspec.structs.replace(
            made, path="gate/1/day/000001.mp4", captured=at, captured_end=at
        )
        index.add([short])
        assert [row.pinned for row in index.between("gate", NOW + 9, NOW + 11)] == [2]
