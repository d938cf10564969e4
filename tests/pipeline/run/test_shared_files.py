"""What sources have in shared memory has a bound and an end: sizes that were, states, ends."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.engine.control_messages import GetSharedMemory
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes

PLANE, PIXELS = "state detect 4096", "frames 64x48 bt601 0"


SLOTS, NBYTES = 4, 64 * 48 * 3 // 2
SIZE = frame_store_bytes(SLOTS, NBYTES)


def wanted(name: str, source: str = "a", nbytes: int = 4096) -> GetSharedMemory:
    return GetSharedMemory(source, name, nbytes)


def got(files: SharedFiles, asked: GetSharedMemory) -> int:
    """The descriptor that a worker would have; the worker closes it once it is mapped."""
    reply, descriptor = files.answer(asked)
    assert reply.fault is None, reply.fault
    assert descriptor is not None
    return descriptor


def asked_for(files: SharedFiles, *asked: GetSharedMemory) -> None:
    for each in asked:
        os.close(got(files, each))


def frames(files: SharedFiles, name: str = PIXELS, source: str = "a") -> FrameStore:
    """A worker's view of a frame store."""
    descriptor = got(files, wanted(name, source, SIZE))
    store = FrameStore(descriptor, SLOTS, NBYTES)
    os.close(descriptor)
    return store


def shown(store: FrameStore, position: Position) -> None:
    store.become_writer(1)
    with store.writing(position.seq, position) as pixels:
        pixels[:] = bytes([position.seq]) * NBYTES


def descriptors() -> int:
    gc.collect()  # what an earlier test left to the collector is no longer counted
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SharedFiles]:
    held = SharedFiles(tmp_path / "state", pictures=2)
    yield held
    held.close()


def test_states_are_files_until_their_source_is_removed(tmp_path: Path) -> None:
    """Those of an earlier run that nobody asked for in this one go, too."""
    folder = tmp_path / "state"
    earlier = SharedFiles(folder)
    asked_for(earlier, *map(wanted, (PLANE, "rows detect 4096", PIXELS)), wanted(PLANE, "ab"))
    earlier.close()
    later = SharedFiles(folder)
    asked_for(later, wanted(PLANE))
    kept = {"a.state-detect-4096", "a.rows-detect-4096", "ab.state-detect-4096"}
    assert {path.name for path in folder.iterdir()} == kept
    later.drop("a")
    assert {path.name for path in folder.iterdir()} == {"ab.state-detect-4096"}
    later.close()


def test_without_a_folder_to_write_to_states_lie_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("no folder", encoding="utf-8")
    files = SharedFiles(blocked)
    asked_for(files, wanted(PLANE))
    files.close()


def test_a_size_that_nobody_wants_any_more_goes_and_may_come_back(files: SharedFiles) -> None:
    """Whoever still has it mapped sees that it is none of the source's, and asks again."""
    before = descriptors()
    old = frames(files)
    shown(old, Position(1, 1))
    new = frames(files, "frames 32x96 bt601 0")
    assert files.nbytes("a") == 2 * SIZE
    files.keep_frames("a", ["frames 32x96 bt601 0"])
    assert old.retired
    assert not new.retired
    assert files.nbytes("a") == SIZE
    with pytest.raises(FrameLost):
        old.finding(Position(1, 1))
    again = frames(files)
    with pytest.raises(FrameLost):
        again.finding(Position(1, 1))
    assert descriptors() == before + 2, "one of each size that there is"


def test_a_reader_makes_no_memory(files: SharedFiles) -> None:
    look = GetSharedMemory("a", PIXELS, SIZE, make=False)
    assert files.answer(look)[0].fault == f"there is no {PIXELS} of it"
    assert files.nbytes("a") == 0
    frames(files)
    reply, descriptor = files.answer(look)
    assert reply.fault is None
    os.close(descriptor or 0)


def test_a_state_of_another_size_takes_the_place_of_the_former(
    files: SharedFiles, tmp_path: Path
) -> None:
    """Also of one that an earlier supervisor has left. It holds no descriptor of any."""
    folder = tmp_path / "state"
    earlier = SharedFiles(folder)
    asked_for(earlier, wanted("state detect 1000"), wanted("rows detect 8 100"))
    asked_for(earlier, wanted("state detect 1000", "ab"), wanted("rows escalate 8 100"))
    earlier.close()
    before = descriptors()
    for size in range(1, 200):
        asked_for(files, wanted(f"state detect {size}"), wanted(f"rows detect {size} {size}"))
    kept = {"a.state-detect-199", "a.rows-detect-199-199"}
    kept |= {"ab.state-detect-1000", "a.rows-escalate-8-100"}
    assert {path.name for path in folder.iterdir()} == kept
    assert descriptors() == before


def test_what_ended_keeps_its_last_picture_on_the_disk_and_nothing_else(
    files: SharedFiles, tmp_path: Path
) -> None:
    store = frames(files)
    asked_for(files, wanted(PLANE), wanted("rows detect 4 100"))
    for seq in range(6):
        shown(store, Position(1, seq))
    files.end("a")
    files.end("a")
    assert store.retired
    assert files.nbytes("a") == frame_store_bytes(1, NBYTES)
    assert list((tmp_path / "state").iterdir()) == [], "no file with a name"
    reply, descriptor = files.find(wanted(PIXELS, nbytes=SIZE))
    assert reply.fault is None
    assert descriptor is not None
    kept = FrameStore(descriptor, SLOTS, NBYTES)
    os.close(descriptor)
    with kept.finding(Position(1, 5)) as pixels:
        assert bytes(pixels) == bytes([5]) * NBYTES
    anew = frames(files)  # the store was set back, and the file is decoded once more
    assert kept.retired
    assert anew.slots == SLOTS


def test_what_ended_under_an_earlier_supervisor_keeps_nothing_either(
    files: SharedFiles, tmp_path: Path
) -> None:
    earlier = SharedFiles(tmp_path / "state")
    asked_for(earlier, wanted(PLANE), wanted(PLANE, "ab"))
    earlier.close()
    files.end("a")
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"ab.state-detect-4096"}
    asked_for(files, wanted(PLANE))
    files.end("a")
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"ab.state-detect-4096"}


def test_last_pictures_have_a_bound(files: SharedFiles) -> None:
    before = descriptors()
    for source in ("a", "b", "c"):
        shown(frames(files, source=source), Position(1, 0))
        files.end(source)
    assert [files.nbytes(source) > 0 for source in ("a", "b", "c")] == [False, True, True]
    assert descriptors() == before + 2
    files.end("unheard_of")
    assert descriptors() == before + 2
