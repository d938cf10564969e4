"""What goes of recordings whose camera, or whose host, has a wrong clock; and who gives way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.recording.retention import gives_way, trim
from tests.support.host_clocks import SimulatedHost
from tests.support.recorded import EACH, add_segment

NOW = 1.8e9
DAY_S = 86400.0
WEEK_S = 7 * DAY_S
SPEC = RecordSpec(bytes=1 << 40, days=7.0, pinned_days=30.0, free_bytes=0)


class Recorder:
    """Records two cameras on a host whose clocks are as a test sets them."""

    def __init__(self, folder: Path, host: SimulatedHost) -> None:
        self.host = host
        self.index = Index(folder, read_clock=host)
        self.spec = SPEC
        self._numbers = itertools.count()

    def record(self, source: str, captured: float | None = None) -> str:
        """Record a segment of four seconds, as a take does; gives its path."""
        trim(self.index, self.spec, source, EACH)
        n = next(self._numbers)
        at = self.host.wall_s if captured is None else captured
        made = add_segment(self.index, source, n, at)
        self.host.passes(4.0)
        return made.path


@pytest.fixture
def host() -> SimulatedHost:
    return SimulatedHost(NOW)


@pytest.fixture
def recorder(tmp_path: Path, host: SimulatedHost) -> Iterator[Recorder]:
    made = Recorder(tmp_path, host)
    yield made
    made.index.close()


# -- a camera's clock


@pytest.mark.parametrize("there", [0.0, NOW - 365 * DAY_S, NOW + 3650 * DAY_S])
def test_a_camera_with_a_wrong_clock_keeps_its_recordings_as_long_as_others(
    recorder: Recorder, host: SimulatedHost, there: float
) -> None:
    for n in range(10):
        recorder.record("right")
        recorder.record("wrong", there + 8 * n)
    host.passes(WEEK_S - 100.0)
    trim(recorder.index, SPEC, "right", 0)
    assert recorder.index.nbytes() == {"right": 10 * EACH, "wrong": 10 * EACH}
    host.passes(120.0)
    trim(recorder.index, SPEC, "right", 0)
    assert recorder.index.nbytes() == {}


def test_a_camera_with_a_clock_in_the_future_takes_nothing_from_its_neighbour(
    recorder: Recorder,
) -> None:
    recorder.spec = msgspec.structs.replace(SPEC, bytes=20 * EACH)
    for n in range(60):
        recorder.record("good")
        recorder.record("ahead", NOW + 3650 * DAY_S + 8 * n)
    assert recorder.index.nbytes() == {"good": 10 * EACH, "ahead": 10 * EACH}
    for source in ("good", "ahead"):
        left = sorted(recorder.index.written(source).keys())
        assert [int(path[-10:-4]) for path in left][-1] >= 118


def test_a_camera_that_sends_more_than_its_share_loses_its_own_files(
    recorder: Recorder,
) -> None:
    recorder.spec = msgspec.structs.replace(SPEC, bytes=20 * EACH)
    kept = [recorder.record("quiet") for _ in range(6)]
    for _ in range(100):
        recorder.record("loud")
    assert recorder.index.nbytes() == {"quiet": 6 * EACH, "loud": 14 * EACH}
    assert recorder.index.written("quiet").keys() == set(kept)


def test_clips_of_one_camera_take_nothing_from_its_neighbour(
    recorder: Recorder,
) -> None:
    recorder.spec = msgspec.structs.replace(SPEC, bytes=20 * EACH)
    recorder.index.pin("loud", NOW, NOW + DAY_S, "always", "alert")
    kept = [recorder.record("quiet") for _ in range(6)]
    for _ in range(100):
        recorder.record("loud")
    assert recorder.index.written("quiet").keys() == set(kept)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10**9), max_size=6),
    st.sampled_from("abcdef"),
    st.integers(0, 10**7),
)
def test_who_gives_way_has_at_least_an_equal_share(
    held: dict[str, int], source: str, room: int
) -> None:
    there = {name: size for name, size in held.items() if size}
    loser = gives_way(held, source, room)
    if not there:
        assert loser is None
        return
    assert loser is not None
    wanted = there[loser] + (room if loser == source else 0)
    total = sum(there.values()) + (room if source in there else 0)
    assert wanted * len(there) >= total
    assert there[loser] > 0


def test_two_recorders_that_remove_the_same_file_count_it_once(
    recorder: Recorder, tmp_path: Path
) -> None:
    recorder.record("gate")
    with closing(Index(tmp_path, read_clock=recorder.host)) as other:
        both = [index.oldest("gate") for index in (recorder.index, other)]
        for index, one in zip((recorder.index, other), both, strict=True):
            assert one is not None
            index.remove([one], "bytes")
        (trimmed,) = other.trims()
    assert (trimmed.segments, trimmed.nbytes) == (1, EACH)


# -- this host's clock


@pytest.mark.parametrize("ahead_s", [WEEK_S, 3650 * DAY_S, -WEEK_S, -NOW])
def test_a_jump_of_the_hosts_clock_removes_nothing_nor_does_its_correction(
    recorder: Recorder, host: SimulatedHost, ahead_s: float
) -> None:
    there = [recorder.record("gate") for _ in range(10)]
    host.steps(ahead_s)
    there += [recorder.record("gate") for _ in range(10)]
    host.steps(-ahead_s)
    there += [recorder.record("gate") for _ in range(10)]
    assert recorder.index.written("gate").keys() == set(there)
    host.passes(WEEK_S - 20.0)  # and they go when their time has come
    trim(recorder.index, SPEC, "gate", 0)
    assert 0 < len(recorder.index.written("gate").keys()) < 10
    host.passes(60.0)
    trim(recorder.index, SPEC, "gate", 0)
    assert recorder.index.written("gate").keys() == set()


def test_a_host_that_starts_with_a_wrong_clock_removes_nothing(
    recorder: Recorder, host: SimulatedHost
) -> None:
    there = [recorder.record("gate") for _ in range(10)]
    for wall_s in (NOW + 3650 * DAY_S, 0.0):
        host.boots(wall_s - host.wall_s)
        there += [recorder.record("gate") for _ in range(5)]
    host.steps(NOW + 600.0 - host.wall_s)
    there.append(recorder.record("gate"))
    assert recorder.index.written("gate").keys() == set(there)


# -- what is told of times


def test_pins_and_gaps_go_with_the_last_file_of_a_source(
    recorder: Recorder,
) -> None:
    recorder.record("gate")
    recorder.index.pin("gate", NOW, NOW + 2.0, "clip", "alert")
    recorder.index.pin("gate", NOW + 60.0, NOW + 90.0, "still to come", "alert")
    recorder.index.recorders.note_gap(RecordingGap("gate", NOW - 9.0, NOW - 2.0, "disk_full"))
    recorder.index.recorders.note_gap(RecordingGap("gate", NOW + 4.0, NOW + 8.0, "disk_full"))
    recorder.spec = msgspec.structs.replace(SPEC, bytes=1)
    assert not trim(recorder.index, recorder.spec, "gate", EACH)
    assert recorder.index.written("gate").keys() == set()
    assert [pin.why for pin in recorder.index.pins()] == ["still to come"]
    assert [gap.since for gap in recorder.index.recorders.gaps("gate", 0.0, 1e12)] == [NOW + 4.0]


def test_pins_and_gaps_of_a_source_that_never_has_a_file_are_bounded(
    recorder: Recorder, host: SimulatedHost
) -> None:
    recorder.index.pin("gate", NOW, NOW + 3650 * DAY_S, "clip", "alert")
    recorder.index.recorders.note_gap(RecordingGap("gate", NOW, NOW + 9.0, "disk_full"))
    host.passes(29 * DAY_S)
    trim(recorder.index, SPEC, "yard", 0)
    assert len(recorder.index.pins()) == len(recorder.index.recorders.gaps("gate", 0.0, 1e12)) == 1
    host.passes(4 * DAY_S)
    trim(recorder.index, SPEC, "yard", 0)
    assert recorder.index.pins() == recorder.index.recorders.gaps("gate", 0.0, 1e12) == []
