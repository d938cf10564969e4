"""The changed parts of frames: written once by position, read by region, bounded on the disk."""

from __future__ import annotations

import errno
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import CHANGE_COLUMNS as COLUMNS
from framegate.pipeline.contracts.source import CHANGE_ROWS as ROWS
from framegate.pipeline.recording.changed_parts import (
    ACTIVITY_EVERY,
    FILE_BYTES,
    FRAMES,
    activity_of,
    changes_of_region,
    known_sources,
    parts_faults,
    parts_files,
    read_region,
)
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter, trim

SIZE = (640, 360)
PLENTY = 1 << 40


def packed(*parts: tuple[int, int]) -> bytes:
    """Parts as the gate gives them; each is (row, column)."""
    grid = np.zeros((ROWS, COLUMNS), np.bool_)
    for row, column in parts:
        grid[row, column] = True
    return np.packbits(grid).tobytes()


def written(data: Path, frames: dict[int, bytes | None], epoch: int = 1) -> None:
    """Frames of a source at 10 frames a second from 1000 s on."""
    writer = ChangedPartsWriter(data, PLENTY)
    for seq, parts in frames.items():
        writer.keep("door", Position(epoch, seq), 1000 + seq / 10, SIZE, parts)
    writer.close()


def whole_file(writer: ChangedPartsWriter, source: str, number: int) -> None:
    """Frames on each page of a file of a source."""
    for seq in range(number * FRAMES, (number + 1) * FRAMES, 32):
        writer.keep(source, Position(1, seq), 1.0 + seq, SIZE, packed((0, 0)))


def test_a_region_by_a_second_method(tmp_path: Path) -> None:
    """Random frames over two files, against the same question asked frame by frame."""
    random = np.random.default_rng(7)
    frames: dict[int, bytes | None] = {}
    boxes: dict[int, tuple[int, int]] = {}
    for seq in range(FRAMES - 200, FRAMES + 200):
        frames[seq] = None
        if random.random() < 0.1:
            boxes[seq] = (int(random.integers(ROWS)), int(random.integers(COLUMNS)))
            frames[seq] = packed(boxes[seq])
    written(tmp_path, frames)
    found = changes_of_region(tmp_path, "door", (0.25, 0.0, 0.5, 1.0), apart_s=0.0)
    # A part is 27 pixels wide: 160 to 320 pixels are in columns 5 to 11.
    expected = [seq for seq, (_, column) in boxes.items() if 5 <= column <= 11]
    assert expected
    assert [period.first for period in found.periods] == [f"1-{seq}" for seq in expected]
    assert [period.since for period in found.periods] == [1000 + seq / 10 for seq in expected]
    assert found.frames == len(frames)
    assert found.known == [(1000 + (FRAMES - 200) / 10, 1000 + (FRAMES + 199) / 10)]
    assert found.left_out == 0
    assert found.known_s == pytest.approx(39.9)


def test_the_newest_periods_are_kept(tmp_path: Path) -> None:
    """1500 changes 20 s apart, with one second of compared frames after each."""
    corner = packed((0, 0))
    frames: dict[int, bytes | None] = {}
    for seq in range(0, 1500 * 200, 200):
        frames |= {seq: corner, seq + 10: None}
    written(tmp_path, frames)
    found = changes_of_region(tmp_path, "door", (0.0, 0.0, 1.0, 1.0))
    assert [period.first for period in found.periods] == [f"1-{n * 200}" for n in range(500, 1500)]
    assert found.left_out == 500
    assert found.known[-1] == pytest.approx((1000 + 1499 * 20, 1000 + 1499 * 20 + 1))
    assert (len(found.known), found.known_s) == (1000, pytest.approx(1500))


def test_changes_near_each_other_are_one_period(tmp_path: Path) -> None:
    corner = packed((0, 0))
    written(tmp_path, {seq: corner if seq in (10, 12, 80) else None for seq in range(100)})
    found = changes_of_region(tmp_path, "door", (0.0, 0.0, 0.01, 0.01))
    periods = [
        (period.first, period.since, period.until, period.frames) for period in found.periods
    ]
    assert periods == [("1-10", 1001.0, 1001.2, 2), ("1-80", 1008.0, 1008.0, 1)]
    later = changes_of_region(tmp_path, "door", (0.0, 0.0, 1.0, 1.0), since=1002.0, until=1008.5)
    assert [period.first for period in later.periods] == ["1-80"]
    elsewhere = changes_of_region(tmp_path, "door", (0.5, 0.5, 1.0, 1.0))
    assert elsewhere.periods == []
    assert elsewhere.frames == 100


def test_what_was_not_compared_is_not_known(tmp_path: Path) -> None:
    written(tmp_path, dict.fromkeys((*range(50), *range(400, 450))))
    found = changes_of_region(tmp_path, "door", (0.0, 0.0, 1.0, 1.0))
    assert found.known == [(1000.0, 1004.9), (1040.0, 1044.9)]


def test_the_activity_of_a_span_is_the_mean_share_of_changed_parts(tmp_path: Path) -> None:
    half = packed(*[(row, column) for row in range(ROWS // 2) for column in range(COLUMNS)])
    frames: dict[int, bytes | None] = {}
    for seq in range(800):
        frames[FRAMES + seq] = half if seq >= 400 else None
    written(tmp_path, frames)
    begin = 1000 + FRAMES / 10
    calm, busy, unknown = 80.0 / 2, 80.0 / 2, 80.0
    told = activity_of(tmp_path, "door", begin, begin + calm + busy + unknown, 4)
    assert (told.step_s, told.shares) == (40.0, [0.0, 0.5, None, None])
    rare: dict[int, bytes | None] = {}
    for seq in range(80):
        rare[seq] = half if seq % ACTIVITY_EVERY else None
    written(tmp_path, rare, 2)
    told = activity_of(tmp_path, "door", 1000.0, 1008.0, 1)
    assert told.shares == [0.0], "it is an estimate from some frames"
    assert activity_of(tmp_path, "../door", 0.0, 1.0, 2).shares == [None, None]


def test_frames_that_are_processed_again_are_stored_once(tmp_path: Path) -> None:
    """A killed worker's successor writes the same frames; another result replaces the old one."""
    written(tmp_path, {0: packed((0, 0)), 1: packed((3, 3)), 2: None})
    [file] = parts_files(tmp_path, "door")
    before = file.path.read_bytes()
    written(tmp_path, {0: packed((0, 0)), 1: packed((3, 3)), 2: None})
    assert file.path.read_bytes() == before
    written(tmp_path, {1: None})
    found = changes_of_region(tmp_path, "door", (0.0, 0.0, 1.0, 1.0))
    assert [(period.first, period.frames) for period in found.periods] == [("1-0", 1)]
    assert found.frames == 3


def test_frames_without_changes_take_hardly_any_space(tmp_path: Path) -> None:
    written(tmp_path, dict.fromkeys(range(FRAMES)))
    [file] = parts_files(tmp_path, "door")
    found = file.path.stat()
    assert found.st_size == FILE_BYTES
    assert 512 * found.st_blocks < FILE_BYTES / 4


def test_the_source_with_the_most_gives_way(tmp_path: Path) -> None:
    """A limit of four files: the fast source loses its oldest, the slow one keeps its only file."""
    writer = ChangedPartsWriter(tmp_path, 4 * FILE_BYTES)
    writer.keep("slow", Position(1, 0), 1.0, SIZE, packed((0, 0)))
    for number in range(8):
        whole_file(writer, "fast", number)
        writer.close()
    assert [file.first for file in parts_files(tmp_path, "slow")] == [0]
    firsts = [file.first // FRAMES for file in parts_files(tmp_path, "fast")]
    assert firsts == list(range(8 - len(firsts), 8))
    assert len(firsts) == 3


def test_many_short_epochs_are_trimmed_together(tmp_path: Path) -> None:
    """A limit of one file, and 200 epochs with one frame, which take two pages of 4 KiB each."""
    writer = ChangedPartsWriter(tmp_path, FILE_BYTES)
    counts: list[int] = []
    for epoch in range(1, 201):
        writer.keep("door", Position(epoch, 0), 1.0 + epoch, SIZE, packed((0, 0)))
        writer.close()
        counts.append(len(parts_files(tmp_path, "door")))
    writer.close()
    trims = sum(after <= before for before, after in pairwise(counts))
    assert 1 <= trims < 10  # it was one for each epoch
    nbytes = sum(512 * file.path.stat().st_blocks for file in parts_files(tmp_path, "door"))
    assert nbytes <= FILE_BYTES


def test_without_a_thread_to_trim_frames_are_still_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(thread: threading.Thread) -> None:  # noqa: ARG001
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    writer = ChangedPartsWriter(tmp_path, 2 * FILE_BYTES)
    writer.keep("live", Position(1, 0), 5.0, (640, 360), None)
    writer.close()
    assert "can't start new thread" in caplog.text
    assert len(list(tmp_path.rglob("*.parts"))) == 1


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def changed_at(data: Path) -> list[float]:
    """When the frames of a source changed, each of which is an own period."""
    changes = changes_of_region(data, "door", (0.0, 0.0, 1.0, 1.0))
    return [period.since for period in changes.periods]


@pytest.mark.parametrize("call", ["open", "ftruncate", "pread", "pwrite"])
def test_a_fault_of_the_disk_costs_frames_and_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    writer = ChangedPartsWriter(tmp_path, PLENTY)
    writer.keep("door", Position(1, 0), 1000.0, SIZE, packed((0, 0)))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for seq in (0, 1):
            writer.keep("door", Position(2, seq), 1100.0 + seq, SIZE, packed((0, 0)))
    writer.keep("door", Position(2, 2), 1200.0, SIZE, packed((0, 0)))
    writer.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    (line,) = caplog.messages
    assert line.endswith(
        "/changes: changed parts are not stored: [Errno 28] No space left on device"
    )
    assert changed_at(tmp_path) == [1000.0, 1200.0]


def test_bytes_that_a_disk_refuses_only_at_the_end_of_a_file_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A network disk with a quota may do so."""
    real = os.close

    def closed(descriptor: int) -> None:
        real(descriptor)
        full()

    writer = ChangedPartsWriter(tmp_path, PLENTY)
    writer.keep("door", Position(1, 0), 1000.0, SIZE, packed((0, 0)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closed)
        writer.end("door")
    assert "changed parts are not stored: [Errno 28]" in caplog.text
    writer.keep("door", Position(2, 0), 1100.0, SIZE, packed((0, 0)))
    writer.close()
    assert changed_at(tmp_path) == [1000.0, 1100.0]


def test_old_files_that_cannot_be_removed_cost_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    writer = ChangedPartsWriter(tmp_path, FILE_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        for number in range(3):
            whole_file(writer, "door", number)
        writer.close()
    assert "old files are not removed: [Errno 13]" in caplog.text
    assert len(parts_files(tmp_path, "door")) == 3
    trim(tmp_path, "door", FILE_BYTES)
    assert len(parts_files(tmp_path, "door")) < 3


def test_sources_that_are_gone_keep_no_space(tmp_path: Path) -> None:
    """A limit of four files, of which six sources without new frames hold one each."""
    writer = ChangedPartsWriter(tmp_path, PLENTY)
    now = time.time()
    for number in range(6):
        whole_file(writer, f"gone{number}", 0)
        writer.end(f"gone{number}")
        [file] = parts_files(tmp_path, f"gone{number}")
        age_s = (6 - number) * 2 * 86400  # 12, 10, 8, 6, 4 and 2 days
        os.utime(file.path, (now - age_s, now - age_s))
    whole_file(writer, "live", 0)
    whole_file(writer, "live", 1)
    whole_file(writer, "other", 0)
    writer.close()
    trim(tmp_path, "live", 6 * FILE_BYTES)
    # Those of more than a week go first, then a source with the most bytes has to give way.
    assert known_sources(tmp_path) == ["gone3", "gone4", "gone5", "live", "other"]
    assert len(parts_files(tmp_path, "live")) == 2
    trim(tmp_path, "live", 2 * FILE_BYTES)
    assert known_sources(tmp_path) == ["live", "other"]
    assert [file.first // FRAMES for file in parts_files(tmp_path, "live")] == [1]
    trim(tmp_path, "live", 0)
    assert known_sources(tmp_path) == ["other"]  # another process may write its file


def test_a_source_without_files_is_named_with_what_to_do(tmp_path: Path) -> None:
    written(tmp_path, {0: None})
    with pytest.raises(ConfigFaults, match=r"changes_bytes.*did you mean door"):
        changes_of_region(tmp_path, "doors", (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("name", ["", "../../other/changes/door", "/etc", "d" * 5000, "door\0"])
def test_only_names_of_sources_are_looked_up(tmp_path: Path, name: str) -> None:
    """The name may come from a request: it must not lead out of the data folder."""
    written(tmp_path / "other", {0: None})
    written(tmp_path / "data", {0: None})
    with pytest.raises(ConfigFaults, match="no changed parts are stored"):
        changes_of_region(tmp_path / "data", name, (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("text", ["", "0,0,1", "0.5,0,0.4,1", "0,0,2,1", "a,b,c,d", "nan,0,1,1"])
def test_a_region_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be x1,y1,x2,y2"):
        read_region(text)


def test_damaged_files_are_left_out_and_reported(tmp_path: Path) -> None:
    written(tmp_path, {0: packed((0, 0)), FRAMES: packed((0, 0))})
    first, second = parts_files(tmp_path, "door")
    assert parts_faults(tmp_path) == {}
    with first.path.open("r+b") as file:
        file.truncate(100)
    with second.path.open("r+b") as file:
        file.write(np.array([-1.0]).tobytes())
    faults = parts_faults(tmp_path)
    assert set(faults) == {f"changes/door/{file.path.name}" for file in (first, second)}
    assert changes_of_region(tmp_path, "door", (0.0, 0.0, 1.0, 1.0)).periods == []
