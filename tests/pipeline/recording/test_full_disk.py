"""A disk that is full: the oldest go, what cannot be written is told, and nothing else breaks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import av
import msgspec
import pytest

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.recorder_states import OPEN
from framegate.pipeline.recording.segment_writer import Recording
from tests.support.recorded import feed, record, segments, split, write_both

MB = 1 << 20
SPEC = RecordSpec(bytes=1 << 40, days=7.0, pinned_days=30.0, free_bytes=2 * MB)
BEGAN = 1.8e9
CBR = "nal-hrd=cbr:bitrate=16000:vbv-maxrate=16000:vbv-bufsize=16000"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of 2 MB each."""
    path = tmp_path_factory.mktemp("file") / "a.mp4"
    return write_both(path, 10.0, options={"bf": "0", "x264-params": CBR})


def check_whole(disk: Path) -> int:
    """Each file has its row and plays; how many they are."""
    files = list((disk / FOLDER).rglob("*.mp4*"))
    assert not [path for path in files if path.name.endswith(OPEN)]
    assert sorted(disk / FOLDER / one.path for one in segments(disk)) == sorted(files)
    for path in files:
        with av.open(str(path)) as held:
            n_packets = sum(packet.size > 0 for packet in held.demux(video=0))
        with av.open(str(path)) as held:
            assert len([*held.decode(video=0)]) == n_packets
    return len(files)


def test_the_oldest_make_room(disk: Path, file: Path) -> None:
    for epoch in range(1, 5):
        record(disk, file, spec=SPEC, epoch=epoch)
        assert check_whole(disk) >= 2
    index = Index(disk)
    assert {trim.cause for trim in index.trims()} == {"space"}
    assert index.recorders.gaps("gate", 0.0, 1e12) == []
    index.close()


def test_a_camera_of_few_bytes_is_recorded_again_once_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    """Its fragments are smaller than a page, so a full disk is noticed late, if at all."""
    clip = write_both(tmp_path / "small.mp4", 30.0, sound=None, options={"bf": "0"})
    parts = [split(tmp_path / FOLDER / one.path) for one in record(tmp_path, clip)]
    pieces = [piece for _, found in parts for piece in found]
    assert max(map(len, pieces)) < 4096
    take = Recording(disk, "gate", msgspec.structs.replace(SPEC, free_bytes=0)).take(1)
    take.begin(parts[0][0], 0.0)
    for n, piece in enumerate(pieces):
        if n == len(pieces) // 3:
            with open(disk / "ballast", "wb", buffering=0) as filled, suppress(OSError):
                while filled.write(bytes(512)):
                    pass
        elif n == len(pieces) * 2 // 3:
            (disk / "ballast").unlink()
        take.fragment(piece, lambda dts: BEGAN + dts)
    take.close()
    held = segments(disk)
    assert held[-1].captured_end == pytest.approx(BEGAN + 30.0, abs=0.1)
    with closing(Index(disk)) as index:
        rebuild(index)  # what was finished while the disk was full has no row yet
        (gap,) = index.recorders.gaps("gate", 0.0, 1e12)
    assert gap.why == "disk_full"
    assert BEGAN + 9.0 < gap.since < BEGAN + 20.0 <= gap.until < BEGAN + 22.0
    assert check_whole(disk) >= 2


def test_where_others_have_filled_it_recording_stops_and_goes_on_when_they_leave(
    disk: Path, file: Path
) -> None:
    record(disk, file, spec=SPEC)
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as filled, suppress(OSError):
        while filled.write(bytes(4096)):
            pass
    feed(disk, file, spec=SPEC, epoch=2)
    assert ballast.exists()
    ballast.unlink()
    index = Index(disk)
    rebuild(index)
    index.close()
    check_whole(disk)
    before = len(segments(disk))
    record(disk, file, spec=SPEC, epoch=3)
    assert check_whole(disk) >= min(before, 2)
