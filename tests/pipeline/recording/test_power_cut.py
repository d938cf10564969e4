"""What a power cut leaves: of files and names only what was synced is sure to be there.

While it is recorded, each fsync and each change of a name is noted together with what the disk is
sure to have by then. A cut is simulated before each of them, in three ways: nothing else is there;
all names are, with a part of what was written since, the rest of it zeros; and the index is gone.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest

from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import FOLDER, NAME, PINS
from framegate.pipeline.recording.mp4_boxes import boxes, read_fragment, read_init
from framegate.pipeline.recording.segment_writer import Recording
from tests.support.recorded import as_files_say, record, split, write_both

BEGAN = 1.8e9
ROOM = 8 << 20  # that is made before a file is begun
Tree = dict[str, bytes]  # of a folder: bytes by path


@dataclass(frozen=True)
class Cut:
    """before: which call; sure: what the disk has for sure; now: all that it was told of, and how
    much of each file it has; ends: of the fragments that were handed over, the last in hand; gone:
    finished files that were removed.
    """

    before: str
    sure: Tree
    now: dict[str, tuple[bytes, int]]
    index: Tree
    ends: tuple[float, ...]
    gone: int


@dataclass
class Disk:
    """What a file system is sure to have, from the calls that it was asked by."""

    top: Path
    ends: list[float] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    _bytes: dict[int, bytes] = field(default_factory=dict)  # by inode
    _names: dict[int, dict[str, int]] = field(default_factory=dict)  # by inode of the folder
    _held: dict[int, int] = field(default_factory=dict)  # open, so that no inode comes again
    _finished: set[str] = field(default_factory=set)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        self._sync_folder(self.top.parent)
        for name in ("fsync", "fdatasync", "rename", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(what: Any, *words: Any, **more: Any) -> Any:
            self.cut(name)
            done = call(what, *words, **more)
            if name in ("fsync", "fdatasync"):
                self._sync(Path(os.readlink(f"/proc/self/fd/{what}")))
            return done

        return watched

    def _sync(self, path: Path) -> None:
        if path.is_dir():
            self._sync_folder(path)
            self._finished |= {
                str(each.relative_to(self.top)) for each in path.iterdir() if each.suffix == ".mp4"
            }
        else:
            self._bytes[self._inode(path)] = path.read_bytes()

    def _sync_folder(self, path: Path) -> None:
        there = {each.name: self._inode(each) for each in path.iterdir()}
        for folder, names in self._names.items():  # a rename is done or not: never are both there
            moved = {name for name, inode in names.items() if inode in there.values()}
            self._names[folder] = {n: i for n, i in names.items() if n not in moved}
        self._names[self._inode(path)] = there

    def _inode(self, path: Path) -> int:
        number = path.stat().st_ino
        if number not in self._held:
            self._held[number] = os.open(path, os.O_RDONLY)
        return number

    def close(self) -> None:
        for number in self._held.values():
            os.close(number)

    def cut(self, before: str) -> None:
        tree = dict(_tree(self.top))
        index = {path: tree.pop(path) for path in [*tree] if "/" not in path}
        has = {path: len(self._bytes.get(self._inode(self.top / path), b"")) for path in tree}
        now = {path: (data, has[path]) for path, data in tree.items()}
        sure = dict(self._sure(self.top.parent.stat().st_ino, ""))
        sure = {path.partition("/")[2]: data for path, data in sure.items() if ".mp4" in path}
        gone = len(self._finished - now.keys())
        self.cuts.append(Cut(before, sure, now, index, tuple(self.ends), gone))

    def _sure(self, folder: int, path: str) -> Iterator[tuple[str, bytes]]:
        for name, inode in self._names.get(folder, {}).items():
            if inode in self._names:
                yield from self._sure(inode, f"{path}{name}/")
            else:
                yield f"{path}{name}", self._bytes.get(inode, b"")


def _tree(top: Path) -> Iterator[tuple[str, bytes]]:
    for path in top.rglob("*"):
        if path.is_file() and not path.name.endswith("-shm"):
            yield str(path.relative_to(top)), path.read_bytes()


def torn(cut: Cut, chance: random.Random) -> Tree:
    """All names, with a part of what was not synced; zeros stand where the rest was to come."""
    left = {}
    for path, (data, sure) in cut.now.items():
        begin = chance.randrange(sure, len(data) + 1)
        rest = bytes(len(data) - begin) if chance.random() < 0.5 else b""
        left[path] = data[:begin] + rest
    return left


@pytest.fixture(scope="module")
def fragments(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[bytes]]:
    """The init part and the fragments of a recorded clip, half a second each."""
    data = tmp_path_factory.mktemp("clip")
    files = record(data, write_both(data / "clip.mp4", 14.0))
    parts = [split(data / FOLDER / one.path) for one in files]
    return parts[0][0], [piece for _, pieces in parts for piece in pieces]


@pytest.fixture(scope="module")
def cuts(
    fragments: tuple[bytes, list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> list[Cut]:
    init, pieces = fragments
    data = tmp_path_factory.mktemp("recorded")
    Index(data).close()
    disk = Disk(data / FOLDER)
    spec = RecordSpec(ROOM + sum(map(len, pieces)) * 2 // 3, 1e6, 1e6, 1 << 20)
    take = Recording(data, "gate", spec).take()
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        take.announce_epoch(1, None)
        take.begin(init, 0.0)
        for piece in pieces:
            moof = next(boxes(piece))
            held = read_fragment(piece[: moof.end], read_init(init))
            if held is not None:  # the last one is of sound alone
                disk.ends.append(held.end)
            take.fragment(piece, lambda dts: BEGAN + dts)
        take.close()
    disk.close()
    with closing(Index(data)) as index:
        assert index.trims()
    return disk.cuts


def restored(folder: Path, *trees: Tree) -> Index:
    for path, data in (item for tree in trees for item in tree.items()):
        file = folder / FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return Index(folder)


def check(index: Index, cut: Cut) -> list[Segment]:
    """All but the fragment in hand is there, without a hole, in files that are whole."""
    rebuild(index)
    found = index.between("gate", 0.0, 1e12)
    known = sorted(cut.ends)[:-1]
    if known:
        assert found, cut.before
        assert known[-1] - 1e-3 <= found[-1].captured_end - BEGAN <= cut.ends[-1] + 1e-3
    for one, after in itertools.pairwise(found):
        assert after.follows(one)
    for one in found:
        assert (index.folder / one.path).stat().st_size == one.nbytes
    return found


def assert_plays(file: Path) -> None:
    """Each packet of it gives its picture."""
    with av.open(str(file)) as held:
        packets = sum(1 for packet in held.demux(video=0) if packet.size)
    with av.open(str(file)) as held:
        assert sum(1 for _ in held.decode(video=0)) == packets > 0


def test_at_most_the_fragment_in_hand_is_lost(cuts: list[Cut], tmp_path: Path) -> None:
    chance = random.Random(5)
    for n, cut in enumerate(cuts):
        with closing(restored(tmp_path / f"{n}", cut.sure, cut.index)) as index:
            for one in check(index, cut)[-1:]:
                assert_plays(index.folder / one.path)
            assert sum(told.segments for told in index.trims()) >= cut.gone
        with closing(restored(tmp_path / f"{n}t", torn(cut, chance), cut.index)) as index:
            check(index, cut)


def test_an_index_that_is_gone_or_torn_is_made_again_from_the_files(
    cuts: list[Cut], tmp_path: Path
) -> None:
    chance = random.Random(6)
    for n, cut in enumerate(cuts[::3]):
        with closing(restored(tmp_path / f"{n}", cut.sure, cut.index)) as index:
            found = check(index, cut)
        half = dict(cut.index)
        wal = half.get(f"{NAME}-wal", b"")
        half[f"{NAME}-wal"] = wal[: chance.randrange(len(wal) + 1)]
        with closing(restored(tmp_path / f"{n}t", cut.sure, half)) as index:
            assert as_files_say(check(index, cut)) == as_files_say(found)
        pins = {path: data for path, data in cut.index.items() if path.startswith(PINS)}
        with closing(restored(tmp_path / f"{n}g", cut.sure, pins)) as index:
            assert as_files_say(check(index, cut)) == as_files_say(found)
