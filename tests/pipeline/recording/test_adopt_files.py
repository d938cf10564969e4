"""Files without a row: that still grow, that another process adds, that go while they are added."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.recording import adopt_files
from framegate.pipeline.recording.adopt_files import adopt, growing_segments, rebuild
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import FOLDER, NAME
from framegate.pipeline.recording.recorder_states import OPEN, RecorderState
from tests.support.recorded import as_files_say, record, segments, write_both

NOW = 1.8e9


@pytest.fixture
def rows(tmp_path: Path) -> list[Segment]:
    """The rows of a recording of three files."""
    found = record(tmp_path, write_both(tmp_path / "a.mp4", 10.0))
    assert len(found) == 3
    return found


def remove_index(data: Path) -> None:
    for file in (data / FOLDER).glob(f"{NAME}*"):
        file.unlink()


def test_a_growing_file_has_a_row_as_far_as_it_is_written(
    tmp_path: Path, rows: list[Segment]
) -> None:
    *_, last = rows
    with closing(Index(tmp_path)) as index:
        index.forget([last.path])
        file = index.folder / last.path
        os.rename(file, f"{file}{OPEN}")
        index.recorders.note(RecorderState("gate", NOW, last.path, None, 1 << 30))
        index.recorders.note(RecorderState("yard", NOW, None, None, 1 << 30))
        grown = msgspec.structs.replace(last, path=f"{last.path}{OPEN}")
        assert as_files_say(growing_segments(index, "gate")) == as_files_say([grown])
        assert growing_segments(index, "yard") == []
        with open(f"{file}{OPEN}", "r+b") as opened:
            opened.truncate(last.head)  # no picture so far
        assert growing_segments(index, "gate") == []
        Path(f"{file}{OPEN}").unlink()  # it was finished just now
        assert growing_segments(index, "gate") == []


def test_files_that_another_process_adds_are_left_to_it(
    tmp_path: Path, rows: list[Segment]
) -> None:
    yard = record(tmp_path, tmp_path / "a.mp4", "yard")
    remove_index(tmp_path)
    with closing(Index(tmp_path)) as index:
        folder = os.open(index.folder / "gate", os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert rebuild(index) == len(yard)
        assert not index.is_whole
        os.close(folder)
        assert rebuild(index) == len(rows)
        assert index.is_whole
    assert as_files_say(segments(tmp_path)) == as_files_say(rows)


def test_folders_of_no_source_are_left_alone(tmp_path: Path, rows: list[Segment]) -> None:
    """A disk for recordings has a lost+found, which only root can open."""
    assert rows
    recordings = tmp_path / FOLDER
    os.rename(recordings / "gate", recordings / "lost+found")
    remove_index(tmp_path)
    with closing(Index(tmp_path)) as index:
        assert index.is_whole
        assert rebuild(index) == 0


def test_files_are_added_in_several_transactions_and_one_that_goes_meanwhile_is_left_out(
    tmp_path: Path, rows: list[Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_index(tmp_path)
    files_of = adopt_files.files_of

    def files_and_removed(folder: Path) -> Iterator[Path]:
        yield folder / "1" / "2027-01-15" / "000000.000.mp4"
        yield from files_of(folder)

    monkeypatch.setattr(adopt_files, "files_of", files_and_removed)
    monkeypatch.setattr(adopt_files, "_AT_ONCE", 2)
    with closing(Index(tmp_path)) as index:
        assert adopt(index, "gate") == len(rows)
        assert adopt(index, "gate") == 0
        assert adopt(index, "nothing_was_recorded") == 0
    assert as_files_say(segments(tmp_path)) == as_files_say(rows)
