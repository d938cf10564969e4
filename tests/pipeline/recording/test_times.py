"""Times that a camera or this host may show, and a file may not hold: none ends a recording."""

from __future__ import annotations

import io
import math
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER, NAME
from framegate.pipeline.recording.mp4_boxes import (
    LATEST,
    Head,
    Mp4Track,
    head_box,
    read_file,
    time_box,
    writable,
)
from framegate.pipeline.recording.segment_writer import Recording
from tests.support.recorded import WIDE, as_files_say, record, segments, split, write_both

NTP_ZERO = -2_208_988_800.0  # 1900: what a camera without a clock says
ERA_2 = 2_085_978_496.0  # 2036-02-07: NTP's seconds begin again at 0
VIDEO = Mp4Track(1, "vide", 90000)


@pytest.mark.parametrize(
    ("captured", "kept"),
    [
        (0.0, 0.0),
        (-1.0, 0.0),
        (NTP_ZERO, 0.0),
        (-math.inf, 0.0),
        (math.nan, 0.0),
        (100.25, 100.25),
        (1.8e9, 1.8e9),
        (ERA_2 - 0.5, ERA_2 - 0.5),
        (ERA_2, ERA_2),
        (ERA_2 + 1e8, ERA_2 + 1e8),
        (5e9, LATEST),
        (1e300, LATEST),
        (math.inf, LATEST),
    ],
)
def test_a_recording_has_the_nearest_time_that_a_file_can_hold(
    tmp_path: Path, captured: float, kept: float
) -> None:
    data = tmp_path / "data"
    (made, *_) = record(data, write_both(tmp_path / "a.mp4", 3.0, sound=None), "made")
    init, pieces = split(data / FOLDER / made.path)
    take = Recording(data, "gate", WIDE).take(1)
    take.begin(init, 0.0)
    for piece in pieces:
        take.fragment(piece, lambda dts: captured + dts)
    take.close()
    (one,) = there = segments(data)
    assert one.captured == pytest.approx(kept, abs=3.0 if kept == 0.0 else 1e-6)
    assert one.captured_end > one.captured
    for file in (data / FOLDER).glob(f"{NAME}*"):
        file.unlink()
    with closing(Index(data)) as index:
        rebuild(index)
        assert as_files_say(index.between("gate", -1.0, 1e12)) == as_files_say(there)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """An init part and a fragment."""
    data = tmp_path_factory.mktemp("made")
    (one, *_) = record(data, write_both(data / "a.mp4", 1.0, sound=None))
    init, (piece, *_) = split(data / FOLDER / one.path)
    return init, piece


@given(captured=st.floats())
def test_each_writable_time_is_read_as_it_was_written(
    made: tuple[bytes, bytes], captured: float
) -> None:
    at = writable(captured)
    assert 0.0 <= at <= LATEST
    assert writable(at) == at
    init, piece = made
    file = io.BytesIO(init + head_box(Head("gate")) + time_box(VIDEO, at, 0.0) + piece)
    ((_, read),) = read_file(file).fragments
    assert read == at
