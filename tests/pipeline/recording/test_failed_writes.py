"""Writes that fail: each costs a gap with its reason, and recording goes on at the next key frame.

Every call by which a take changes the disk fails once, one after the other, with an error of a full
or a broken disk; then the recording is looked at as the next process finds it.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording import segment_writer as take_module
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.durable import write_all
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.mp4_boxes import Fragment, boxes, read_fragment, read_init
from framegate.pipeline.recording.open_segment import new_file
from framegate.pipeline.recording.recorder_states import OPEN, RecordingGap
from framegate.pipeline.recording.segment_writer import Recording
from tests.support.recorded import WIDE, record, split, write_both

pytestmark = pytest.mark.whole_run

BEGAN = 1.8e9
KEY_S = 1.0  # from one key frame to the next
HAIR_S = 0.05
Pieces = tuple[bytes, list[tuple[bytes, Fragment]]]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """The init part and the fragments of twelve seconds, which are three files."""
    data = tmp_path_factory.mktemp("clip")
    clip = write_both(data / "clip.mp4", 12.0, sound=None, options={"bf": "0"})
    parts = [split(data / FOLDER / one.path) for one in record(data, clip)]
    init, found = parts[0][0], []
    for piece in itertools.chain(*(pieces for _, pieces in parts)):
        held = read_fragment(piece[: next(boxes(piece)).end], read_init(init))
        assert held is not None
        found.append((piece, held))
    return init, found


class Failing:
    """A call that fails once, the `n`-th time."""

    def __init__(self, call: Callable[..., Any], n: int, number: int) -> None:
        self._call, self._left, self._number = call, n, number
        self.has_failed = False

    def __call__(self, *words: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self.has_failed = True
            raise OSError(self._number, os.strerror(self._number))
        return self._call(*words, **more)


def half_written(file: io.FileIO, data: bytes) -> None:
    """Write as a disk does that becomes full meanwhile."""
    file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def record_pieces(data: Path, pieces: Pieces, spec: RecordSpec = WIDE) -> None:
    take = Recording(data, "gate", spec).take()
    take.announce_epoch(1, None)
    take.begin(pieces[0], 0.0)
    for piece, _ in pieces[1]:
        take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()


def check(data: Path, pieces: Pieces) -> list[RecordingGap]:
    """What the next process finds: whole files, and a gap where something is missing; gives these.

    A gap begins with what failed and ends with a key frame.
    """
    end = BEGAN + pieces[1][-1][1].end
    with closing(Index(data)) as index:
        rebuild(index)
        there = index.between("gate", 0.0, 1e12)
        gaps = index.recorders.gaps("gate", 0.0, 1e12)
        for one in there:
            assert (index.folder / one.path).stat().st_size == one.nbytes
        names = {str(path.relative_to(index.folder)) for path in files(data)}
        assert names == {one.path for one in there}
    spans = sorted(
        [(one.captured, one.captured_end) for one in there] + [(g.since, g.until) for g in gaps]
    )
    assert abs(spans[0][0] - BEGAN) < HAIR_S
    assert abs(spans[-1][1] - end) < HAIR_S
    for (_, before), (after, _) in itertools.pairwise(spans):
        assert abs(after - before) < HAIR_S
    for gap in gaps:
        assert gap.until - gap.since <= 2 * KEY_S + HAIR_S
    assert all(one.is_key for one in there)
    return gaps


def files(data: Path) -> Iterator[Path]:
    return (data / FOLDER).glob("*/*/*/*.mp4*")


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("fdatasync", errno.EIO, "disk_error"),
        ("fsync", errno.EIO, "disk_error"),
        ("rename", errno.EDQUOT, "disk_full"),
        ("open", errno.ENOSPC, "disk_full"),
        ("mkdir", errno.ENOSPC, "disk_full"),
    ],
)
def test_a_call_that_fails_costs_a_gap_at_most(
    pieces: Pieces, tmp_path: Path, name: str, number: int, reason: str
) -> None:
    for n in itertools.count(1):
        data = tmp_path / f"{n}"
        Index(data).close()
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(getattr(os, name), n, number)
            patch.setattr(os, name, failing)
            record_pieces(data, pieces)
        gaps = check(data, pieces)
        assert len(gaps) <= 1
        assert {gap.why for gap in gaps} <= {reason}
        if not failing.has_failed:
            assert gaps == []
            assert n > 1
            return


def test_a_write_of_which_the_disk_takes_a_part_costs_a_gap(pieces: Pieces, tmp_path: Path) -> None:
    for n in range(1, len(pieces[1]) + 1, 3):
        data = tmp_path / f"{n}"
        turn = itertools.count(1)

        def once(file: io.FileIO, part: bytes, n: int = n, turn: Iterator[int] = turn) -> None:
            (half_written if next(turn) == n else write_all)(file, part)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(take_module, "write_all", once)
            record_pieces(data, pieces)
        (gap,) = check(data, pieces)
        assert gap.why == "disk_full"


def test_a_disk_that_takes_nothing_leaves_no_files_and_one_gap(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_module, "write_all", half_written)
    record_pieces(tmp_path, pieces)
    assert list(files(tmp_path)) == []
    with closing(Index(tmp_path)) as index:
        (gap,) = index.recorders.gaps("gate", 0.0, 1e12)
        assert (gap.since, gap.why) == (BEGAN + pieces[1][0][1].dts, "disk_full")
        assert gap.until == pytest.approx(BEGAN + pieces[1][-1][1].end)
        (state,) = index.recorders.states()
        assert "No space left" in (state.why or "")


def test_a_short_write_is_continued(tmp_path: Path) -> None:
    class Slow(io.FileIO):
        """Takes three bytes a call, as a system call may."""

        def write(self, data: Any, /) -> int:
            return super().write(data[:3])

    path = tmp_path / "a"
    with Slow(path, "w") as file:
        write_all(file, b"0123456789")
    assert path.read_bytes() == b"0123456789"


def test_a_limit_of_threads_costs_no_recording(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without a row are added later, and those that come now are recorded."""
    recording = Recording(tmp_path, "gate", WIDE)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, closing(Index(tmp_path)) as index:
        patch.setattr(threading.Thread, "start", refuse)
        recording.add_missing_rows(index)
        record_pieces(tmp_path, pieces)
    assert check(tmp_path, pieces) == []
    assert not recording._is_adopted


def test_files_longer_than_half_the_limit_do_not_cost_the_others(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file needs twice the bytes of the last one, but not more than there are."""
    record_pieces(tmp_path / "all", pieces)
    longest = max(path.stat().st_size for path in files(tmp_path / "all"))
    monkeypatch.setattr(take_module, "_FIRST_ROOM", 1)
    spec = msgspec.structs.replace(WIDE, bytes=longest * 3 // 2)
    record_pieces(tmp_path / "few", pieces, spec)
    with closing(Index(tmp_path / "few")) as index:
        assert index.recorders.gaps("gate", 0.0, 1e12) == []
        assert len(index.all_segments()) == 2


def test_a_folder_that_is_removed_just_now_is_made_again(pieces: Pieces, tmp_path: Path) -> None:
    """Retention removes empty folders, also that of a file which is about to be created."""

    def remove(path: Path) -> io.FileIO:
        if not removed:
            removed.append(path)
            path.parent.rmdir()
        return new_file(path)

    removed: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(take_module, "new_file", remove)
        record_pieces(tmp_path, pieces)
    assert removed
    assert check(tmp_path, pieces) == []


def test_a_file_that_nobody_finished_is_taken_in_by_the_same_process(
    pieces: Pieces, tmp_path: Path
) -> None:
    """A rename that fails leaves a file open; the recorder looks for it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", Failing(os.rename, 1, errno.EIO))
        record_pieces(tmp_path, pieces)
    assert any(path.name.endswith(OPEN) for path in files(tmp_path))
    recording = Recording(tmp_path, "gate", WIDE)
    recording.look_again()
    with closing(Index(tmp_path)) as index:
        recording.add_missing_rows(index)
    assert not any(path.name.endswith(OPEN) for path in files(tmp_path))
