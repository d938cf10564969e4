"""An index that is damaged, removed or old: recording goes on, and each file has its row again."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from framegate.pipeline.recording import adopt_files
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import (
    ASIDE,
    FOLDER,
    NAME,
    PINS,
    VERSION,
    IndexReplaced,
    RecordingLost,
    damage_of,
    gap_reason,
    set_damaged_aside,
)
from framegate.pipeline.recording.mp4_boxes import FileContents
from framegate.pipeline.recording.recorder_states import Recorders, RecordingGap
from framegate.pipeline.recording.retention import trim
from framegate.pipeline.recording.segment_writer import Recording, Take
from tests.support.host_clocks import SimulatedHost
from tests.support.recorded import WIDE, as_files_say, segments

BEGAN = 1.8e9
Pieces = tuple[bytes, list[bytes]]


def begin(data: Path, pieces: Pieces, source: str = "gate") -> Take:
    take = Recording(data, source, WIDE).take()
    take.announce_epoch(1, None)
    take.begin(pieces[0], 0.0)
    return take


def damage(file: Path, offset: int) -> None:
    """Overwrite 200 bytes, as a bad sector or a torn page does."""
    for ending in ("-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    with open(file, "r+b") as opened:
        opened.seek(offset)
        opened.write(random.Random(offset).randbytes(200))


def damage_while_open(file: Path) -> None:
    """Overwrite all pages but the first one, which connections have read."""
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = os.stat(file).st_size // 4096
    with open(file, "r+b") as opened:
        for page in range(1, pages):
            opened.seek(page * 4096)
            opened.write(bytes(range(256)) * 8)


def whole(data: Path) -> list[Segment]:
    """The rows, each of which has its file, and each file its row."""
    found = segments(data)
    files = {str(path.relative_to(data / FOLDER)) for path in (data / FOLDER).glob("*/*/*/*.mp4*")}
    assert files == {one.path for one in found}
    return found


@pytest.mark.parametrize("name", [NAME, PINS])
@pytest.mark.parametrize("offset", [0, 40, 100, 3900])
def test_recording_goes_on_with_a_damaged_index_and_its_rows_come_again(
    pieces: Pieces,
    tmp_path: Path,
    name: str,
    offset: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    take = begin(tmp_path, pieces)
    for piece in pieces[1]:
        take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()
    with closing(Index(tmp_path)) as index:
        index.pin("gate", BEGAN + 1.0, BEGAN + 2.0, "an episode", "alert")
    before = whole(tmp_path)
    assert [one.pinned for one in before] == [2, 0, 0]
    file = tmp_path / FOLDER / name
    damage(file, offset)
    if damage_of(file) is None:
        pytest.skip("nothing is kept at that place")
    caplog.clear()
    take = begin(tmp_path, pieces)
    for piece in pieces[1]:
        take.fragment(piece, lambda dts: BEGAN + 100.0 + dts)
    take.close()
    after = whole(tmp_path)
    assert as_files_say(after)[:3] == as_files_say(before)  # marked as clips, too
    assert len(after) == 2 * len(before)
    assert Path(f"{file}{ASIDE}").is_file()
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert len(told) == 1
    assert f"{file} was damaged" in told[0]
    with closing(Index(tmp_path)) as index:
        assert index.is_whole
        assert index.recorders.gaps("gate", 0.0, 1e12) == []
        assert [pin.why for pin in index.pins()] == ([] if name == PINS else ["an episode"])


@pytest.mark.parametrize("way", ["damaged", "removed", "replaced"])
def test_an_index_that_goes_while_it_is_recorded_costs_nothing(
    pieces: Pieces, tmp_path: Path, way: str
) -> None:
    take = begin(tmp_path, pieces)
    file = tmp_path / FOLDER / NAME
    for n, piece in enumerate(pieces[1]):
        take.fragment(piece, lambda dts: BEGAN + dts)
        if n != len(pieces[1]) // 2:
            continue
        if way == "damaged":
            damage_while_open(file)
        else:
            for ending in ("", "-wal", "-shm"):
                Path(f"{file}{ending}").unlink(missing_ok=True)
            if way == "replaced":
                Index(tmp_path).close()
    take.close()
    with closing(Index(tmp_path)) as index:
        rebuild(index)
        assert index.recorders.gaps("gate", 0.0, 1e12) == []
    held = whole(tmp_path)
    assert (held[0].captured, held[-1].captured_end) == (BEGAN, pytest.approx(BEGAN + 12.0))
    assert sum(one.seconds for one in held) == pytest.approx(12.0)


def test_all_sources_are_taken_in_again_by_whoever_records(pieces: Pieces, tmp_path: Path) -> None:
    for source in ("gate", "yard"):
        take = begin(tmp_path, pieces, source)
        for piece in pieces[1]:
            take.fragment(piece, lambda dts: BEGAN + dts)
        take.close()
    yard = segments(tmp_path, "yard")
    for file in (tmp_path / FOLDER).glob(f"{NAME}*"):
        file.unlink()
    take = begin(tmp_path, pieces)
    take.fragment(pieces[1][0], lambda dts: BEGAN + 100.0 + dts)
    take.close()
    assert as_files_say(segments(tmp_path, "yard")) == as_files_say(yard)


def test_an_index_of_which_another_finds_the_damage_is_followed(tmp_path: Path) -> None:
    with closing(Index(tmp_path)) as mine:
        mine.pin("gate", BEGAN, BEGAN + 1.0, "an episode")
        damage(tmp_path / FOLDER / NAME, 0)
        with closing(Index(tmp_path)) as other:
            assert mine.recorded() == []
            mine.recorders.note_gap(RecordingGap("gate", BEGAN, BEGAN + 1.0, "disk_full"))
            assert len(other.recorders.gaps("gate", 0.0, 1e12)) == 1
            assert [pin.why for pin in other.pins()] == ["an episode"]


def test_each_error_has_the_reason_that_a_person_can_act_on() -> None:
    assert gap_reason(OSError(28, "No space left on device")) == "disk_full"
    assert gap_reason(OSError(122, "Disk quota exceeded")) == "disk_full"
    assert gap_reason(OSError(5, "Input/output error")) == "disk_error"
    assert gap_reason(RecordingLost("gone")) == "index_error"
    assert gap_reason(RecordingLost("full", "disk_full")) == "disk_full"
    with (
        closing(sqlite3.connect(":memory:")) as database,
        pytest.raises(sqlite3.OperationalError) as wrong,
    ):
        database.execute("SELECT * FROM missing")
    assert gap_reason(wrong.value) == "index_error"


def test_only_a_file_that_can_be_read_can_be_damaged(tmp_path: Path) -> None:
    assert damage_of(tmp_path / NAME) is None
    (tmp_path / NAME).mkdir()
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        damage_of(tmp_path / NAME)


# -- an index of 0.2

VERSION_2 = """
CREATE TABLE segment (
  path TEXT PRIMARY KEY, source TEXT NOT NULL, epoch INTEGER NOT NULL,
  pts REAL NOT NULL, pts_end REAL NOT NULL, shift REAL NOT NULL,
  captured REAL NOT NULL, captured_end REAL NOT NULL,
  bytes INTEGER NOT NULL, head INTEGER NOT NULL, init TEXT NOT NULL,
  is_key INTEGER NOT NULL, sound INTEGER NOT NULL, pinned INTEGER NOT NULL
) STRICT;
CREATE INDEX by_time ON segment (source, captured);
CREATE INDEX by_pts ON segment (source, epoch, pts);
CREATE INDEX by_age ON segment (pinned, captured);
CREATE TABLE gap (
  source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL, why TEXT NOT NULL,
  PRIMARY KEY (source, since, why)
) STRICT;
CREATE INDEX gap_by_time ON gap (until);
CREATE TABLE trimmed (
  source TEXT NOT NULL, cause TEXT NOT NULL, until REAL NOT NULL, segments INTEGER NOT NULL,
  bytes INTEGER NOT NULL, PRIMARY KEY (source, cause)
) STRICT;
CREATE TABLE recorder (
  source TEXT PRIMARY KEY, since REAL NOT NULL, path TEXT, why TEXT, most_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE kept (
  source TEXT PRIMARY KEY, segments INTEGER NOT NULL, seconds REAL NOT NULL,
  bytes INTEGER NOT NULL, pinned INTEGER NOT NULL, sounds INTEGER NOT NULL
) STRICT;
INSERT INTO kept VALUES ('gate', 2, 8.0, 2000, 1000, 0);
INSERT INTO segment VALUES ('gate/1/1970-01-01/000000.000.mp4', 'gate', 1, 0.0, 4.0, 0.0, 100.0,
  104.0, 1000, 10, 'a', 1, 0, 0);
INSERT INTO segment VALUES ('gate/1/1970-01-01/000004.000.mp4', 'gate', 1, 4.0, 8.0, 0.0, 104.0,
  108.0, 1000, 10, 'a', 1, 0, 1);
INSERT INTO gap VALUES ('gate', 108.0, 109.0, 'disk_full');
PRAGMA user_version = 2;
"""
PINS_2 = """
CREATE TABLE pin (
  why TEXT PRIMARY KEY, source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
  level INTEGER NOT NULL
) STRICT;
CREATE INDEX pin_by_time ON pin (source, until);
INSERT INTO pin VALUES ('an episode', 'gate', 105.0, 106.0, 1);
PRAGMA user_version = 2;
"""


def test_rows_of_version_2_were_written_when_their_files_were(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    (folder / "gate/1/1970-01-01").mkdir(parents=True)
    os.chmod(folder, 0o755)
    for name, script in ((NAME, VERSION_2), (PINS, PINS_2)):
        with closing(sqlite3.connect(folder / name)) as old:
            old.executescript(script)
    there = folder / "gate/1/1970-01-01/000000.000.mp4"  # the other one is gone
    there.write_bytes(b"")
    os.utime(there, (BEGAN - 1e8, BEGAN - 1e8))
    with closing(Index(tmp_path)) as index:
        first, second = index.between("gate", 0.0, 1e12)
        assert (first.written, second.written) == (BEGAN - 1e8, 108.0)
        assert (first.pinned, second.pinned) == (0, 1)
        assert index.is_whole
        assert index.now() == BEGAN - 1e8  # the host may be wrong, and catches up with time
        assert [pin.why for pin in index.pins()] == ["an episode"]
        assert len(index.recorders.gaps("gate", 0.0, 1e12)) == 1
        assert index.nbytes() == {"gate": 2000}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with closing(sqlite3.connect(folder / NAME)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert damage_of(folder / NAME) is None


def test_files_that_are_taken_in_are_not_older_than_those_before_them(
    pieces: Pieces, tmp_path: Path
) -> None:
    """Whatever the host's clock was when they were written: 1970, or ten years ahead."""
    take = begin(tmp_path, pieces)
    for piece in pieces[1]:
        take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()
    there = segments(tmp_path)
    for one, mtime in zip(there, (BEGAN - 1e8, 1.0, BEGAN + 3e8), strict=True):
        os.utime(tmp_path / FOLDER / one.path, (mtime, mtime))
    for file in (tmp_path / FOLDER).glob(f"{NAME}*"):
        file.unlink()
    with closing(Index(tmp_path)) as index:
        rebuild(index)
        now = index.now()
    first, second, third = (one.written for one in segments(tmp_path))
    assert first == second == BEGAN - 1e8
    assert third <= now


def test_files_that_are_taken_in_stay_where_this_hosts_clock_went_back(
    pieces: Pieces, tmp_path: Path
) -> None:
    """The time of a file is then years before the kept time, by which it would be too old."""
    host = SimulatedHost(time.time() + 3650 * 86400.0)
    with closing(Index(tmp_path, read_clock=host)) as index:
        index.pin("yard", 0.0, 1.0, "an episode, by which kept time begins")
        index.end_rebuild(index.opened)
    take = begin(tmp_path, pieces)
    with pytest.MonkeyPatch.context() as patch:
        for n, piece in enumerate(pieces[1]):
            if n == 10:  # the file is taken in, as what follows cannot be written
                patch.setattr(os, "fdatasync", full)
            take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()
    killed = begin(tmp_path, pieces, "yard")
    killed.fragment(pieces[1][0], lambda dts: BEGAN + dts)
    assert killed._open is not None
    killed._open.file.close()
    with closing(Index(tmp_path)) as index:
        rebuild(index)
        before = index.nbytes()
        trim(index, WIDE, "gate", 0)
        assert index.nbytes() == before
        assert before.keys() == {"gate", "yard"}


def full(_: int) -> None:
    raise OSError(28, os.strerror(28))


def test_an_index_that_is_made_again_does_not_trust_this_hosts_clock(
    pieces: Pieces, tmp_path: Path
) -> None:
    take = begin(tmp_path, pieces)
    for piece in pieces[1]:
        take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()
    for file in (tmp_path / FOLDER).glob(f"{NAME}*"):
        file.unlink()
    ahead = SimulatedHost(time.time() + 3650 * 86400.0)
    with closing(Index(tmp_path, read_clock=ahead)) as index:
        assert rebuild(index) == 3
        trim(index, WIDE, "gate", 0)
        assert len(index.written("gate").keys()) == 3


def test_a_rebuild_during_which_the_index_goes_is_not_whole(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in ("gate", "yard"):
        take = begin(tmp_path, pieces, source)
        for piece in pieces[1]:
            take.fragment(piece, lambda dts: BEGAN + dts)
        take.close()

    def remove() -> None:
        for file in (tmp_path / FOLDER).glob(f"{NAME}*"):
            file.unlink()

    remove()
    files_of = adopt_files.files_of

    def files_and_removal(folder: Path) -> Iterator[Path]:
        if folder.name == "yard":
            remove()
        return files_of(folder)

    with closing(Index(tmp_path)) as index:
        with monkeypatch.context() as patch:
            patch.setattr(adopt_files, "files_of", files_and_removal)
            rebuild(index)
        assert not index.is_whole
        rebuild(index)
        assert index.is_whole
        assert index.written("gate").keys()
        assert index.written("yard").keys()


def test_a_file_that_replaces_a_damaged_one_keeps_its_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody opens the index while the damaged files are moved aside, one after another: the log
    of the new file must not be moved with them.
    """
    Index(tmp_path).close()
    folder = tmp_path / FOLDER
    damage(folder / NAME, 0)
    is_noted, is_over = threading.Event(), threading.Event()

    def note() -> None:
        with closing(Index(tmp_path)) as index:
            index.recorders.note_gap(RecordingGap("gate", 1.0, 2.0, "disk_full"))
            is_noted.set()
            is_over.wait()

    other = threading.Thread(target=note)
    replace = os.replace

    def replaced(old: Path, new: Path) -> None:
        replace(old, new)
        if other.ident is None:
            other.start()
            is_noted.wait(0.5)  # it is kept out, or does it now

    monkeypatch.setattr(os, "replace", replaced)
    set_damaged_aside(folder)
    is_noted.wait()
    with closing(Index(tmp_path)) as index:
        gaps = index.recorders.gaps("gate", 0.0, 9.0)
    is_over.set()
    other.join()
    assert len(gaps) == 1


def test_a_file_that_retention_removes_while_it_is_added_leaves_no_row(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row went just before the rows were read, and it goes itself just after it was read."""
    take = begin(tmp_path, pieces)
    for piece in pieces[1]:
        take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()
    (first, *others) = segments(tmp_path)
    read_file = adopt_files.read_file

    def read_and_remove(file: BinaryIO) -> FileContents:
        held = read_file(file)
        (tmp_path / FOLDER / first.path).unlink()
        return held

    with closing(Index(tmp_path)) as index:
        index.forget([first.path])
        monkeypatch.setattr(adopt_files, "read_file", read_and_remove)
        rebuild(index)
        assert index.written("gate").keys() == {one.path for one in others}


def test_a_damaged_index_that_cannot_be_moved_is_reported_and_used_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with closing(Index(tmp_path)) as index:
        index.recorders.note_gap(RecordingGap("gate", 1.0, 2.0, "disk_full"))
        damage_while_open(tmp_path / FOLDER / NAME)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(RecordingLost, match="damaged and cannot be replaced") as refused:
                index.all_segments()
        assert refused.value.reason == "disk_full"
        with pytest.raises(IndexReplaced):
            index.all_segments()
        index.recorders.note_gap(RecordingGap("gate", 3.0, 4.0, "disk_full"))
        assert [each.since for each in index.recorders.gaps("gate", 0.0, 9.0)] == [3.0]


@pytest.mark.parametrize("name", [NAME, PINS])
def test_an_index_of_a_newer_version_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    Index(tmp_path).close()
    file = tmp_path / FOLDER / name
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(RecordingLost, match=r"a newer Framegate wrote it \(version 99\)"):
        Index(tmp_path)
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.touch()
    with pytest.raises(RecordingLost, match="cannot be made") as refused:
        Index(file)
    assert refused.value.reason == "disk_error"


def test_a_gap_is_noted_in_the_index_that_replaces_a_damaged_one(
    pieces: Pieces, tmp_path: Path
) -> None:
    take = begin(tmp_path, pieces)
    take.fragment(pieces[1][0], lambda dts: BEGAN + dts)
    damage_while_open(tmp_path / FOLDER / NAME)
    take.note_loss(BEGAN + 1.0, BEGAN + 2.0, "slow_disk")
    with closing(Index(tmp_path)) as index:
        assert len(index.recorders.gaps("gate", 0.0, 1e12)) == 1
    take.close()


def test_a_gap_that_the_index_does_not_take_is_noted_with_the_next_file(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise RecordingLost("the index is busy")

    take = begin(tmp_path, pieces)
    with monkeypatch.context() as patch:
        patch.setattr(Recorders, "note_gap", cannot)
        take.note_loss(BEGAN - 2.0, BEGAN - 1.0, "slow_disk")
    take.fragment(pieces[1][0], lambda dts: BEGAN + dts)
    take.close()
    with closing(Index(tmp_path)) as index:
        assert len(index.recorders.gaps("gate", 0.0, 1e12)) == 1


# -- who may read it

_AS_NOBODY = """
import os, sys
os.setgid(65534); os.setuid(65534)
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        try:
            open(os.path.join(folder, name), "rb").close()
        except OSError:
            continue
        print(name)
"""


def test_recordings_cannot_be_read_by_others(pieces: Pieces, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    old = os.umask(0o022)
    try:
        take = begin(data, pieces)
        take.fragment(pieces[1][0], lambda dts: BEGAN + dts)
        take.close()
    finally:
        os.umask(old)
    assert stat.S_IMODE((data / FOLDER).stat().st_mode) == 0o700
    names = [path for path in (data / FOLDER).rglob("*") if path.is_file()]
    assert {NAME, PINS} < {path.name for path in names}
    assert not [path for path in names if stat.S_IMODE(path.stat().st_mode) & 0o007]
    if os.geteuid() == 0:
        command = [sys.executable, "-c", _AS_NOBODY, str(data / FOLDER)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
        assert told.stdout == ""
