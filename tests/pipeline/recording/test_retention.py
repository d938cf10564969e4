"""What goes of recordings whose camera, or whose host, has a wrong clock; and who gives way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.clocks import HostClock
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.recorders import RecordingGap
from framegate.pipeline.recording.retention import gives_way, trim
from framegate.pipeline.spec import RecordSpec

NOW = 1.8e9
DAY_S = 86400.0
WEEK_S = 7 * DAY_S
EACH = 1000
SPEC = RecordSpec(bytes=1 << 40, days=7.0, pinned_days=30.0, free_bytes=0)


class Host:
    """Two cameras are recorded on it; its clocks are as a test sets them."""

    def __init__(self, folder: Path) -> None:
        self.wall_s, self.up_s, self.boot = NOW, 1000.0, "first"
        self.index = Index(folder, read_clock=self.read)
        self.spec = SPEC
        self._numbers = itertools.count()

    def read(self) -> HostClock:
        return HostClock(self.wall_s, self.up_s, self.boot)

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.wall_s, self.up_s = self.wall_s + seconds, self.up_s + seconds

    def record(self, source: str, captured: float | None = None) -> str:
        """Record a segment of four seconds, as a take does; gives its path."""
        trim(self.index, self.spec, source, EACH)
        n = next(self._numbers)
        at = self.wall_s if captured is None else captured
        made = Segment(
            path=f"{source}/1/day/{n:06}.mp4",
            source=source,
            epoch=1,
            pts=4.0 * n,
            pts_end=4.0 * n + 4.0,
            shift_s=0.0,
            captured=at,
            captured_end=at + 4.0,
            nbytes=EACH,
            head=10,
            init="a",
            is_key=True,
            sound=False,
        )
        path = self.index.folder / made.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(EACH))
        self.index.add([made])
        self.pass_by(4.0)
        return made.path


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.index.close()


# -- a camera's clock


@pytest.mark.parametrize("there", [0.0, NOW - 365 * DAY_S, NOW + 3650 * DAY_S])
def test_a_camera_with_a_wrong_clock_keeps_its_recordings_as_long_as_others(
    host: Host, there: float
) -> None:
    for n in range(10):
        host.record("right")
        host.record("wrong", there + 8 * n)
    host.pass_by(WEEK_S - 100.0)
    trim(host.index, SPEC, "right", 0)
    assert host.index.nbytes() == {"right": 10 * EACH, "wrong": 10 * EACH}
    host.pass_by(120.0)
    trim(host.index, SPEC, "right", 0)
    assert host.index.nbytes() == {}


def test_a_camera_with_a_clock_in_the_future_takes_nothing_from_its_neighbour(host: Host) -> None:
    host.spec = msgspec.structs.replace(SPEC, bytes=20 * EACH)
    for n in range(60):
        host.record("good")
        host.record("ahead", NOW + 3650 * DAY_S + 8 * n)
    assert host.index.nbytes() == {"good": 10 * EACH, "ahead": 10 * EACH}
    for source in ("good", "ahead"):
        left = sorted(host.index.paths(source))
        assert [int(path[-10:-4]) for path in left][-1] >= 118


def test_a_camera_that_sends_more_than_its_share_loses_its_own_files(host: Host) -> None:
    host.spec = msgspec.structs.replace(SPEC, bytes=20 * EACH)
    kept = [host.record("quiet") for _ in range(6)]
    for _ in range(100):
        host.record("loud")
    assert host.index.nbytes() == {"quiet": 6 * EACH, "loud": 14 * EACH}
    assert host.index.paths("quiet") == set(kept)


def test_clips_of_one_camera_take_nothing_from_its_neighbour(host: Host) -> None:
    host.spec = msgspec.structs.replace(SPEC, bytes=20 * EACH)
    host.index.pin("loud", NOW, NOW + DAY_S, "always", "alert")
    kept = [host.record("quiet") for _ in range(6)]
    for _ in range(100):
        host.record("loud")
    assert host.index.paths("quiet") == set(kept)


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


# -- this host's clock


@pytest.mark.parametrize("ahead_s", [WEEK_S, 3650 * DAY_S, -WEEK_S, -NOW])
def test_a_jump_of_the_hosts_clock_removes_nothing_nor_does_its_correction(
    host: Host, ahead_s: float
) -> None:
    there = [host.record("gate") for _ in range(10)]
    host.wall_s += ahead_s
    there += [host.record("gate") for _ in range(10)]
    host.wall_s -= ahead_s
    there += [host.record("gate") for _ in range(10)]
    assert host.index.paths("gate") == set(there)
    host.pass_by(WEEK_S - 20.0)  # and they go when their time has come
    trim(host.index, SPEC, "gate", 0)
    assert 0 < len(host.index.paths("gate")) < 10
    host.pass_by(60.0)
    trim(host.index, SPEC, "gate", 0)
    assert host.index.paths("gate") == set()


def test_a_host_that_starts_with_a_wrong_clock_removes_nothing(host: Host) -> None:
    there = [host.record("gate") for _ in range(10)]
    for boot, wall_s in (("second", NOW + 3650 * DAY_S), ("third", 0.0)):
        host.boot, host.up_s, host.wall_s = boot, 10.0, wall_s
        there += [host.record("gate") for _ in range(5)]
    host.wall_s = NOW + 600.0
    there.append(host.record("gate"))
    assert host.index.paths("gate") == set(there)


# -- what is told of times


def test_pins_and_gaps_go_with_the_last_file_of_a_source(host: Host) -> None:
    host.record("gate")
    host.index.pin("gate", NOW, NOW + 2.0, "clip", "alert")
    host.index.pin("gate", NOW + 60.0, NOW + 90.0, "still to come", "alert")
    host.index.recorders.note_gap(RecordingGap("gate", NOW - 9.0, NOW - 2.0, "disk_full"))
    host.index.recorders.note_gap(RecordingGap("gate", NOW + 4.0, NOW + 8.0, "disk_full"))
    host.spec = msgspec.structs.replace(SPEC, bytes=1)
    assert not trim(host.index, host.spec, "gate", EACH)
    assert host.index.paths("gate") == set()
    assert [pin.why for pin in host.index.pins()] == ["still to come"]
    assert [gap.since for gap in host.index.recorders.gaps("gate", 0.0, 1e12)] == [NOW + 4.0]


def test_pins_and_gaps_of_a_source_that_never_has_a_file_are_bounded(host: Host) -> None:
    host.index.pin("gate", NOW, NOW + 3650 * DAY_S, "clip", "alert")
    host.index.recorders.note_gap(RecordingGap("gate", NOW, NOW + 9.0, "disk_full"))
    host.pass_by(29 * DAY_S)
    trim(host.index, SPEC, "yard", 0)
    assert len(host.index.pins()) == len(host.index.recorders.gaps("gate", 0.0, 1e12)) == 1
    host.pass_by(4 * DAY_S)
    trim(host.index, SPEC, "yard", 0)
    assert host.index.pins() == host.index.recorders.gaps("gate", 0.0, 1e12) == []
