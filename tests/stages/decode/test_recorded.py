"""A range of a recording is a source with the frames, times and sound of what was recorded."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.recorded_range import RecordedRange, is_recorded, range_of
from framegate.pipeline.contracts.source import Request
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.stages.decode import Decode
from framegate.stages.decode.frame import DecodedFrame
from framegate.stages.decode.options import DecodeOptions
from tests.support.footage import write_sizes
from tests.support.recorded import feed, record, segments, write_both


def whole(data: Path) -> RecordedRange:
    held = segments(data)
    return RecordedRange(
        data, "gate", held[0].captured, max(each.captured_end for each in held), len(held)
    )


def frames_at(place: str, sound: int = 0) -> list[DecodedFrame]:
    with closing(Decode(DecodeOptions()).open(Request(place, sound=sound))) as opened:
        return [frame for frame in opened if isinstance(frame, DecodedFrame)]


def pixels(frame: DecodedFrame) -> bytes:
    slot = np.empty(frame.nbytes, np.uint8)
    frame.write(memoryview(slot))
    return slot.tobytes()


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3"}], ids=["in order", "reordered"])
def test_frames_and_sound_are_those_of_the_file(tmp_path: Path, options: dict[str, str]) -> None:
    file = write_both(tmp_path / "a.mp4", 10.0, options=options)
    record(tmp_path / "data", file)
    recorded = whole(tmp_path / "data")
    found = frames_at(recorded.place, sound=1600)
    expected = frames_at(str(file), sound=1600)
    assert [pixels(frame) for frame in found] == [pixels(frame) for frame in expected]
    first = expected[0].pts or 0.0
    times = [(frame.pts or 0.0) - first for frame in expected]
    assert [frame.pts for frame in found] == pytest.approx(times, abs=2e-3)
    assert [frame.captured for frame in found] == [recorded.since + (f.pts or 0.0) for f in found]
    heard = b"".join(block.samples for frame in found for block in frame.sound)
    assert len(heard) == pytest.approx(
        sum(len(block.samples) for frame in expected for block in frame.sound), abs=2 * 6400
    )


def test_a_later_connection_begins_as_much_later_as_it_was_captured(tmp_path: Path) -> None:
    file = write_both(tmp_path / "a.mp4", 6.0, sound=None)
    for epoch in (1, 2):
        feed(tmp_path / "data", file, epoch=epoch)
    held = segments(tmp_path / "data")
    later = next(each for each in held if each.epoch == 2)
    found = frames_at(whole(tmp_path / "data").place)
    assert len(found) == 300
    times = [frame.pts or 0.0 for frame in found]
    assert all(before < after for before, after in itertools.pairwise(times))
    # The file was read faster than it plays, so the second one begins where the first one ends.
    assert later.captured - held[0].captured < 6.0
    assert times[150] == pytest.approx(6.0, abs=0.05)


def test_a_file_that_was_removed_since_ends_the_source(tmp_path: Path) -> None:
    """Its frames would have other numbers than those that were committed before a restart."""
    data = tmp_path / "data"
    record(data, write_both(tmp_path / "a.mp4", 10.0))
    recorded = whole(data)
    with closing(Index(data)) as index:
        index.remove(segments(data)[:1], "age")
    with pytest.raises(SourceFault, match="2 files are recorded there now, and 3 were") as fault:
        frames_at(recorded.place)
    assert fault.value.reason == "changed"


def test_a_range_with_other_pictures_is_refused(tmp_path: Path) -> None:
    file = write_sizes(tmp_path / "sizes.h264", [(96, 64), (64, 96)], 50)
    record(tmp_path / "data", file)
    with pytest.raises(SourceFault):
        frames_at(whole(tmp_path / "data").place)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    [first, *_] = record(data, write_both(tmp_path / "a.mp4", 4.0))
    (data / FOLDER / first.path).write_bytes(b"no video")
    with pytest.raises(SourceFault, match="cannot be read"):
        frames_at(whole(data).place)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_that_was_cut_ends_the_source_with_its_name(tmp_path: Path, number: int) -> None:
    """The frames behind it would have other numbers."""
    data = tmp_path / "data"
    record(data, write_both(tmp_path / "a.mp4", 12.0))
    place = whole(data).place
    held = segments(data)
    file = data / FOLDER / held[number].path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SourceFault, match=f"{held[number].path}.*damaged") as fault:
        frames_at(place)
    assert fault.value.reason == "damaged"


def test_a_damaged_connection_is_not_passed_over(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = write_both(tmp_path / "a.mp4", 4.0, sound=None)
    for epoch in (1, 2, 3):
        feed(data, file, epoch=epoch)
    second = next(each for each in segments(data) if each.epoch == 2)
    (data / FOLDER / second.path).write_bytes(b"no video")
    with pytest.raises(SourceFault) as fault:
        frames_at(whole(data).place)
    assert fault.value.reason == "damaged"


def test_a_place_holds_its_range(tmp_path: Path) -> None:
    recorded = RecordedRange(tmp_path / "a ?&b%", "gate", 1796030061.123456, 1796030099.5, 7)
    assert range_of(recorded.place) == recorded
    assert is_recorded(recorded.place)
    assert not is_recorded("recordings/gate.mp4")
    with pytest.raises(ValueError, match="--from-recording CAMERA"):
        range_of("recording:/data/gate?from=noon&to=1&files=2")
