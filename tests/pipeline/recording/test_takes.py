"""A take: the names of its files, its state in the index, and where it continues a recording."""

from __future__ import annotations

import io
import math
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.recording.durable import write_all
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.recorder_states import OPEN
from framegate.pipeline.recording.segment_writer import Recording, Take
from tests.support.recorded import WIDE, record, segments, write_both

BEGAN = 1.8e9
IN_ORDER = {"bf": "0"}  # pictures are shown in the order in which they are decoded
Pieces = tuple[bytes, list[bytes]]


def begun(data: Path, pieces: Pieces, source: str = "gate") -> Take:
    take = Recording(data, source, WIDE).take()
    take.announce_epoch(1, None)
    take.begin(pieces[0], 0.0)
    return take


def write(take: Take, pieces: Pieces, n: range) -> None:
    for number in n:
        take.fragment(pieces[1][number], lambda dts: BEGAN + dts)


def test_a_connection_that_is_not_recorded_has_its_reason_in_the_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Recording(tmp_path, "gate", WIDE).take().refuse("its codec mpeg4 fits into no file")
    assert caplog.messages == ["source gate is not recorded: its codec mpeg4 fits into no file"]
    with closing(Index(tmp_path)) as index:
        (state,) = index.recorders.states()
        assert (state.path, state.why) == (None, "its codec mpeg4 fits into no file")


def test_a_connection_that_ends_late_leaves_the_state_of_the_next_one(
    pieces: Pieces, tmp_path: Path
) -> None:
    first, second = (begun(tmp_path, pieces) for _ in range(2))
    write(first, pieces, range(2))
    write(second, pieces, range(2))
    first.close()
    with closing(Index(tmp_path)) as index:
        (state,) = index.recorders.states()
        assert state.growing_file is not None
        assert (index.folder / state.growing_file).exists()
        second.close()
        (state,) = index.recorders.states()
        assert state.growing_file is None


def test_files_of_the_same_moment_have_names_of_their_own(pieces: Pieces, tmp_path: Path) -> None:
    """A camera whose clock was set back sends the same times again."""
    for _ in range(3):
        take = begun(tmp_path, pieces)
        write(take, pieces, range(4))
        take.close()
    names = sorted(Path(row.path).name for row in segments(tmp_path))
    first = names[-1].removesuffix(".mp4")
    assert names == [f"{first}-1.mp4", f"{first}-2.mp4", f"{first}.mp4"]


def test_a_file_stays_in_its_epoch_where_the_new_one_has_one_of_its_name(
    pieces: Pieces, tmp_path: Path
) -> None:
    first = begun(tmp_path, pieces)
    write(first, pieces, range(4))
    first.close()
    (row,) = segments(tmp_path)
    second = Recording(tmp_path, "gate", WIDE).take()
    second.begin(pieces[0], 0.0)  # its epoch is not known so far
    write(second, pieces, range(2))
    second.announce_epoch(1, None)
    write(second, pieces, range(2, 4))
    second.close()
    paths = {each.path: each.epoch for each in segments(tmp_path)}
    assert paths == {row.path: 1, row.path.replace("/1/", "/0/"): 0}


def test_a_take_knows_its_epoch_once_it_is_announced(tmp_path: Path) -> None:
    take = Recording(tmp_path, "gate", WIDE).take()
    assert not take.knows_epoch
    assert take.due_from is None
    take.announce_epoch(3, 0.0, due_from=BEGAN)
    assert take.knows_epoch
    assert take.due_from == BEGAN
    assert Recording(tmp_path, "gate", WIDE).take(epoch=2).knows_epoch


@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_file_continues_behind_what_its_last_decoder_recorded(
    tmp_path: Path, sound: str | None
) -> None:
    record(tmp_path, write_both(tmp_path / "a.mp4", 10.0, sound=sound, options=IN_ORDER))
    recording = Recording(tmp_path, "gate", WIDE)
    take = recording.take()
    take.announce_epoch(1, 0.0)
    found = take.recorded()
    take.close()
    assert found is not None
    assert found[0] == pytest.approx(10.0)
    assert found[1] == (-math.inf if sound is None else pytest.approx(10.0, abs=0.1))
    assert recording.take(epoch=2).recorded() is None


def test_the_sound_continues_behind_an_earlier_file_if_the_last_one_was_cut_before_it(
    tmp_path: Path,
) -> None:
    record(tmp_path, write_both(tmp_path / "a.mp4", 6.0))
    record(tmp_path, write_both(tmp_path / "b.mp4", 10.0, sound=None, options=IN_ORDER))
    take = Recording(tmp_path, "gate", WIDE).take(epoch=1)
    found = take.recorded()
    take.close()
    assert found is not None
    assert found[0] == pytest.approx(10.0)
    assert found[1] == pytest.approx(6.0, abs=0.1)


def test_a_file_whose_recording_cannot_be_read_is_recorded_again_from_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Recording twice is the lesser harm."""
    *_, last = record(tmp_path, write_both(tmp_path / "a.mp4", 10.0))
    (tmp_path / FOLDER / last.path).write_bytes(b"no boxes")
    take = Recording(tmp_path, "gate", WIDE).take(epoch=1)
    assert take.recorded() is None
    take.close()
    assert "source gate: recording again from its start: " in caplog.text


def test_a_folder_with_nothing_whole_is_recorded_from_its_start(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / "gate/1/2027-01-15"
    folder.mkdir(parents=True)
    (folder / f"080000.000.mp4{OPEN}").write_bytes(b"")
    take = Recording(tmp_path, "gate", WIDE).take(epoch=1)
    assert take.recorded() is None
    take.close()


def test_a_disk_that_accepts_nothing_and_reports_no_error_fails_a_write(tmp_path: Path) -> None:
    """Otherwise the recorder would try for ever."""

    class Stuck(io.FileIO):
        def write(self, data: Any, /) -> int:  # noqa: ARG002
            return 0

    with (
        Stuck(tmp_path / "a", "w") as file,
        pytest.raises(OSError, match="the disk accepted none of the written bytes"),
    ):
        write_all(file, b"0123456789")
    assert os.stat(tmp_path / "a").st_size == 0
